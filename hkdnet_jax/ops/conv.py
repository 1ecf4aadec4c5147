"""The one 3x3 convolution of every network, fast forward and backward on a CPU.

XLA's CPU backend takes a naive path, some 80 times slower, for the weight gradient of
a convolution that stands inside a scan.  The custom VJP below keeps it off that path:
it states the gradient as matrix products (`ops.winograd`), or as an ordinary
convolution in the layout of the forward pass (batch and channel exchange their roles).
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from hkdnet_jax.ops import winograd
from hkdnet_jax.runtime.precision import FULL

LAYOUT = ("NHWC", "HWIO", "NHWC")


# Channels from which the CPU's own ways below pay.
_MANY_CHANNELS = 32
# Columns from which XLA's own way uses two cores: it splits an image by blocks of 64.
_WIDE = 128


# Most convolutions of a network are of one size: jitted, and inlined again, they are
# traced once, which halves what a network's own trace spends on them.
@partial(jax.jit, static_argnames="precision", inline=True)
def _same(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    ways = {"cpu": _same_cpu, "default": _same_default}
    ways = {name: partial(way, precision=precision) for name, way in ways.items()}
    return lax.platform_dependent(x, kernel, **ways)


def _same_default(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, precision=precision
    )


def _same_cpu(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    """The same, on all cores.

    jaxlib 0.10 hands a convolution whose padding is symmetric to a library that runs
    most sizes of ours on one core; padded by one more column, which is cut off again,
    it goes to Eigen, which uses all.  With few channels, or in a wide image, that is no
    gain.
    """
    if min(kernel.shape[2:]) < _MANY_CHANNELS or x.shape[2] >= _WIDE:
        return _same_default(x, kernel, precision)
    out = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 2)),
        dimension_numbers=LAYOUT,
        precision=precision,
    )
    return out[:, :, :-1]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(x: jax.Array, kernel: jax.Array, precision: str = FULL) -> jax.Array:
    """Cross-correlation, stride 1, zero padding of one pixel.

    Args:
      x: [N, H, W, I].
      kernel: [3, 3, I, O], same dtype.
      precision: of the products, forward and backward; see `runtime.precision`.

    Returns:
      [N, H, W, O].
    """
    return _same(x, kernel, precision)


def _forward(x: jax.Array, kernel: jax.Array, precision: str):
    return _same(x, kernel, precision), (x, kernel)


def _kernel_gradient_cpu(
    x: jax.Array, grad: jax.Array, precision: str = FULL
) -> jax.Array:
    """Weight gradient by Winograd's method where it pays, else as a convolution.

    As a plain NHWC one: I is the batch, N the channels.
    """
    many = min(x.shape[-1], grad.shape[-1]) >= _MANY_CHANNELS
    if many and x.dtype == jnp.float32:
        return winograd.weight_gradient(x, grad, precision)
    out = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # [I, H, W, N]
        grad.transpose(1, 2, 0, 3),  # [H, W, N, O]
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=LAYOUT,
        precision=precision,
    )
    return out.transpose(1, 2, 0, 3)


def _kernel_gradient_default(
    x: jax.Array, grad: jax.Array, precision: str = FULL
) -> jax.Array:
    """The same, stated by dimension numbers: accelerators choose their own layouts."""
    return lax.conv_general_dilated(
        x,
        grad,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        precision=precision,
    )


def _backward(precision: str, residuals, grad: jax.Array):
    x, kernel = residuals
    grad_x = _same(grad, jnp.swapaxes(kernel[::-1, ::-1], 2, 3), precision)
    ways = {"cpu": _kernel_gradient_cpu, "default": _kernel_gradient_default}
    ways = {name: partial(way, precision=precision) for name, way in ways.items()}
    return grad_x, lax.platform_dependent(x, grad, **ways)


conv3x3.defvjp(_forward, _backward)


def conv3x3_reflect(
    x: jax.Array, kernel: jax.Array, precision: str = FULL
) -> jax.Array:
    """`conv3x3` with reflect padding (the edge sample is not repeated).

    Padded, convolved SAME and cropped: on a CPU a VALID convolution runs at a third
    to a sixth of the rate of a SAME one.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return conv3x3(padded, kernel, precision)[:, 1:-1, 1:-1]


class Conv3x3(nn.Module):
    """3x3 convolution, stride 1.

    Attributes:
      features: output channels.
      padding: `zero` or `reflect`.
      dtype: of the computation and the output; parameters are float32.
      kernel_init: initialiser of the [3, 3, I, O] kernel; the bias starts at zero.
      use_bias: False leaves the bias out.
      precision: see `conv3x3`.
    """

    features: int
    padding: str = "zero"
    dtype: jnp.dtype = jnp.float32
    # The default of the PyTorch networks the paper builds on: small enough that a
    # stack of 100 residual blocks without normalisation starts near the identity.
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(
        1.0 / 3.0, "fan_in", "uniform"
    )
    use_bias: bool = True
    precision: str = FULL

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, I] to [N, H, W, features]."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        conv = {"zero": conv3x3, "reflect": conv3x3_reflect}[self.padding]
        out = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.precision)
        if not self.use_bias:
            return out
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return out + bias.astype(self.dtype)[None, None, None, :]


# 1x1 convolutions are matrix products over the channels, so they take no padding.
Conv1x1 = partial(
    nn.Dense,
    kernel_init=nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform"),
    precision=FULL,
)
