"""The 3x3 convolution that all networks share, fast forward and backward on a CPU.

For the weight gradient of a convolution inside a scan, XLA's CPU backend takes a naive
path that is about 80 times slower.  The custom VJP below avoids that path: it states
the gradient as matrix products (`ops.winograd`), or as an ordinary convolution in the
layout of the forward pass, with the roles of batch and channels exchanged.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from hkdnet_jax.ops import portable, winograd
from hkdnet_jax.ops.extent import Extent, clear, reflect
from hkdnet_jax.ops.portable import LAYOUT
from hkdnet_jax.runtime import sharding
from hkdnet_jax.runtime.precision import FULL

# Number of channels from which the special methods for CPUs below pay off.
_MANY_CHANNELS = 32
# Number of columns from which XLA's own method uses two cores, because it splits an
# image into blocks of 64.
_WIDE = 128
# The default of the PyTorch networks that the paper builds on.  It is small enough that
# a stack of 100 residual blocks without normalisation starts near the identity.
_SMALL = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


# Most convolutions of a network have the same shapes.  Jitted, and inlined again, they
# are traced once, which halves the time that a network's trace spends on them.
@partial(jax.jit, static_argnames="precision", inline=True)
def _same(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    cpu = partial(_same_cpu, precision=precision)
    default = partial(_same_default, precision=precision)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _same_default(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, precision=precision
    )


def _same_cpu(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    """Computes the same as `_same_default`, on all cores.

    jaxlib 0.10 hands a convolution with symmetric padding to a library that runs most
    of our sizes on one core.  With one more column of padding, which is cut off again,
    the convolution goes to Eigen, which uses all cores.  With few channels or a wide
    image this gains nothing.
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


def conv3x3(x: jax.Array, kernel: jax.Array, precision: str = FULL) -> jax.Array:
    """Cross-correlates with stride 1 and zero padding of one pixel.

    Args:
      x: floating [N, H, W, I].
      kernel: [3, 3, I, O], of the same dtype.
      precision: precision of the products, forward and backward; see
        `runtime.precision`.

    Returns:
      [N, H, W, O].
    """
    if portable.active():
        return portable.conv(x, kernel, 1, precision)
    return _conv3x3(x, kernel, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3x3(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    return _same(x, kernel, precision)


def _forward(x: jax.Array, kernel: jax.Array, precision: str):
    return _same(x, kernel, precision), (x, kernel)


def _kernel_gradient_cpu(
    x: jax.Array, grad: jax.Array, precision: str = FULL
) -> jax.Array:
    """Computes the weight gradient by Winograd's method or as a convolution.

    The convolution, which serves where Winograd's method does not pay off, is a plain
    NHWC one with I as the batch and N as the channels.
    """
    many_channels = min(x.shape[-1], grad.shape[-1]) >= _MANY_CHANNELS
    if many_channels and x.dtype == jnp.float32:
        return _kernel_gradient_winograd(x, grad, precision)
    out = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # [I, H, W, N]
        grad.transpose(1, 2, 0, 3),  # [H, W, N, O]
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=LAYOUT,
        precision=precision,
    )
    return out.transpose(1, 2, 0, 3)


def _kernel_gradient_winograd(
    x: jax.Array, grad: jax.Array, precision: str
) -> jax.Array:
    """Adds up the weight gradients that devices compute of their own images."""

    def own(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return winograd.weight_gradient(*pair, precision)[None]

    return jnp.sum(sharding.over_images(own, (x, grad)), axis=0)


def _kernel_gradient_default(
    x: jax.Array, grad: jax.Array, precision: str = FULL
) -> jax.Array:
    """Computes the weight gradient for accelerators, which choose their own layouts."""
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
    cpu = partial(_kernel_gradient_cpu, precision=precision)
    default = partial(_kernel_gradient_default, precision=precision)
    return grad_x, lax.platform_dependent(x, grad, cpu=cpu, default=default)


_conv3x3.defvjp(_forward, _backward)


def conv3x3_reflect(
    x: jax.Array,
    kernel: jax.Array,
    precision: str = FULL,
    extent: Extent | None = None,
) -> jax.Array:
    """Computes `conv3x3` with reflect padding (the edge sample is not repeated).

    The image, at least 2x2 pixels, is padded, convolved with SAME padding and cropped,
    because on a CPU a VALID convolution runs at a third to a sixth of the rate of a
    SAME one.
    """
    padded = reflect(x, extent)
    if portable.active():
        return portable.conv(padded, kernel, 0, precision)
    return conv3x3(padded, kernel, precision)[:, 1:-1, 1:-1]


class _Layer(nn.Module):
    """A layer that does not trace the initialisers of parameters that exist.

    flax does so only to compare shapes, which would take a quarter of the time that a
    network's trace takes.
    """

    @nn.nowrap
    def param(
        self,
        name: str,
        init: nn.initializers.Initializer,
        shape: tuple[int, ...],
        *args: Any,
    ) -> jax.Array:
        """Returns what `nn.Module.param` returns."""
        if self.has_variable("params", name):
            value = self.get_variable("params", name)
            if value.shape == shape:
                return value
        return super().param(name, init, shape, *args)


class Conv3x3(_Layer):
    """3x3 convolution, stride 1.

    Attributes:
      features: number of output channels.
      padding: `zero` or `reflect`.
      dtype: dtype of the computation and the output; parameters are float32.
      kernel_init: initialiser of the [3, 3, I, O] kernel.
      use_bias: whether there is a bias.
      mean: if it is given, the bias does not start at 0 but where each channel has this
        mean over the batch that `init` is given (as in Mishkin and Matas, "All you need
        is a good init", ICLR 2016, for the mean alone).
      precision: see `conv3x3`.
    """

    features: int
    padding: str = "zero"
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = _SMALL
    use_bias: bool = True
    mean: float | None = None
    precision: str = FULL

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, I] to [N, H, W, features], both 0 beyond the extent."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        arrays = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.padding == "reflect":
            out = conv3x3_reflect(*arrays, self.precision, extent)
        else:
            out = conv3x3(*arrays, self.precision)
        if not self.use_bias:
            return clear(out, extent)

        def start(_: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            del shape
            return self.mean - out.mean(axis=(0, 1, 2), dtype=jnp.float32)

        init = nn.initializers.zeros if self.mean is None else start
        bias = self.param("bias", init, (self.features,))
        return clear(out + bias.astype(self.dtype)[None, None, None, :], extent)


class Conv1x1(_Layer, nn.Dense):
    """1x1 convolution: a product over the channels, so it takes no padding."""

    precision: str = FULL
    kernel_init: nn.initializers.Initializer = _SMALL
