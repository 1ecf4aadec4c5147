"""The student that the paper's authors released in PyTorch, to run their weights.

It differs from the paper's text and from our Student in many places, which
docs/fidelity.md lists.  It is for inference: its six batch normalisations, which only
scale and shift once training is over, are folded into the convolutions before them
(`released.conversion`), and its dropout is left out.  Arrays are [N, H, W, C], float32.

The released demo stretches each input by its own minimum and maximum to [0, 1], and its
output likewise to 0..255, as `fuse --normalize minmax --stretch` does.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from hkdnet_jax.models.blocks import RCAB, ResidualGroup
from hkdnet_jax.models.presets import StudentConfig
from hkdnet_jax.models.super_resolution import SuperResolutionPart
from hkdnet_jax.ops import portable
from hkdnet_jax.ops.conv import Conv1x1, Conv3x3
from hkdnet_jax.ops.harris import harris_response
from hkdnet_jax.ops.position_attention import attention
from hkdnet_jax.runtime.precision import FULL

# These equal `full`, but are written out, because the released weights fix them.
SIZES = StudentConfig(
    width=64,
    branch_rcabs=9,
    dfabs=6,
    decoder=(64, 64, 32),
    sr_groups=5,
    sr_rcabs=20,
    reduction=16,
    corner_gamma=0.7,
)
FIRST_CHANNELS = 16  # channels of the first convolution, which both branches share
DECODED_CHANNELS = 16  # channels of the decoder's last convolution
POSITION_REDUCTION = 8  # channels divided by the channels of a query or a key
FUSION_EPSILON = 1e-10


def corner_map(x: jax.Array) -> jax.Array:
    """Computes the released corner map: 1 within a pixel of a strong corner, else 0.

    The Harris response of each channel is dilated by a 3x3 maximum and compared with
    0.7 of the maximum over the channel.  A pixel that equals this threshold keeps its
    feature, as do all pixels of a flat channel, where both are 0.  The map carries no
    gradient.

    Args:
      x: [N, H, W, C].

    Returns:
      An array like x.
    """
    x = lax.stop_gradient(x)
    dilated = portable.largest_around(harris_response(x))
    threshold = SIZES.corner_gamma * jnp.max(dilated, axis=(1, 2), keepdims=True)
    return jnp.where(dilated > threshold, 1.0, jnp.where(dilated < threshold, 0.0, x))


def channel_mixture(x: jax.Array) -> jax.Array:
    """Averages the channels, with the largest weights for UNLIKE channels.

    A channel's weights are the softmax of its row maximum minus its row of the Gram
    matrix over the positions.

    Args:
      x: [N, H, W, C].

    Returns:
      An array like x.
    """
    gram = jnp.einsum("nhwc,nhwd->ncd", x, x, precision=FULL)
    # The row maximum is constant in its row, and so does not change the softmax.
    weights = jax.nn.softmax(-gram, axis=-1)
    return jnp.einsum("ncd,nhwd->nhwc", weights, x, precision=FULL)


def fuse_features(ir: jax.Array, vis: jax.Array) -> jax.Array:
    """Sums both features with weights that depend on their means.

    Each weight is `exp(mean) / (exp(mean_ir) + exp(mean_vis) + 1e-10)`, where the means
    are over the channels of a pixel.

    Args:
      ir: [N, H, W, C].
      vis: like ir.

    Returns:
      An array like ir.
    """
    means = [jnp.mean(x, axis=-1, keepdims=True) for x in (ir, vis)]
    # Numerator and denominator are divided by exp(peak), so that no power overflows.
    peak = jnp.maximum(*means)
    powers = [jnp.exp(mean - peak) for mean in means]
    total = powers[0] + powers[1] + FUSION_EPSILON * jnp.exp(-peak)
    return (powers[0] * ir + powers[1] * vis) / total


class ReleasedDFAB(nn.Module):
    """The released block: `gamma * softmax(Q * K) * conv(K)`.

    Q and K are convolutions of the output of two RCABs.  The softmax runs over the
    width; the convolutions have no bias, and the block has no skip.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""

        def conv(name: str) -> Conv3x3:
            return Conv3x3(x.shape[-1], use_bias=False, name=name)

        d = RCAB(SIZES.reduction, name="rcab1")(x)
        d = RCAB(SIZES.reduction, name="rcab2")(d)
        query, key = conv("conv1")(d), conv("conv2")(d)
        weights = jax.nn.softmax(query * key, axis=2)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return gamma * weights * conv("conv3")(key)


class ReleasedDFAG(nn.Module):
    """The released group: `x + conv(six blocks of x)`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        y = x
        for i in range(SIZES.dfabs):
            y = ReleasedDFAB(name=f"dfab{i + 1}")(y)
        return x + Conv3x3(x.shape[-1], name="conv")(y)


class Position(nn.Module):
    """Position module: `gamma * attention + x`, with an unscaled row softmax."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        c = x.shape[-1]
        query = Conv1x1(c // POSITION_REDUCTION, name="query")(x)
        key = Conv1x1(c // POSITION_REDUCTION, name="key")(x)
        value = Conv1x1(c, name="value")(x)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return gamma * attention(query, key, value) + x


class Channel(nn.Module):
    """Channel module: `gamma * channel_mixture(x) + x`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return gamma * channel_mixture(x) + x


# What the corner module adds to its product; see `Corner`.
CORNER_SKIPS = ("feature", "map")


class Corner(nn.Module):
    """Corner module: `corner_map(x) * relu(conv(x)) + skip`, with a 1x1 convolution.

    Attributes:
      skip: `feature` adds x, as the released code does on a GPU, the only device on
        which it runs unchanged.  `map` adds the map, as that code does with its tensors
        on a CPU, where OpenCV's array shares the memory of the feature, so that writing
        the map overwrites x.
    """

    skip: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        b = nn.relu(Conv1x1(x.shape[-1], name="conv")(x))
        corners = corner_map(x)
        return corners * b + {"feature": x, "map": corners}[self.skip]


class ReleasedCEA(nn.Module):
    """The released CEA: three parallel paths, summed and mixed by a 1x1 convolution.

    Each path is a 3x3 convolution, ReLU, the attention, a 3x3 convolution, ReLU and a
    1x1 convolution.  Batch normalisation is folded into the 3x3 convolutions.

    Attributes:
      corner_skip: see `Corner`.
    """

    corner_skip: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        c = x.shape[-1]

        def path(name: str, module: Callable[..., nn.Module]) -> jax.Array:
            y = nn.relu(Conv3x3(c, name=f"{name}_in")(x))
            y = module(name=name)(y)
            y = nn.relu(Conv3x3(c, name=f"{name}_out")(y))
            return Conv1x1(c, name=f"{name}_mix")(y)

        total = path("position", Position) + path("channel", Channel)
        corner = partial(Corner, self.corner_skip)
        return Conv1x1(c, name="mix")(total + path("corner", corner))


class Branch(nn.Module):
    """A branch after the shared convolutions: `x + conv(attention(RG(x)))`.

    Attributes:
      attention: a function that makes the branch's attention module, given its `name`.
    """

    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        y = ResidualGroup(SIZES.branch_rcabs, SIZES.reduction, name="rg")(x)
        y = self.attention(name="attention")(y)
        return x + Conv3x3(x.shape[-1], name="conv")(y)


def _conv_relu(x: jax.Array, features: int, name: str) -> jax.Array:
    return nn.relu(Conv3x3(features, "reflect", name=name)(x))


class ReleasedFusionPart(nn.Module):
    """The fusion part: shared convolutions, both branches, fusion and decoder.

    Attributes:
      corner_skip: see `Corner`.
    """

    corner_skip: str

    @nn.compact
    def __call__(
        self, ir: jax.Array, vis: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps two [N, H, W, 1] images to [N, H, W, 16] features and intermediates."""
        conv1 = Conv3x3(FIRST_CHANNELS, "reflect", name="conv1")
        conv2 = Conv3x3(SIZES.width, "reflect", name="conv2")
        first_ir, first_vis = (nn.relu(conv2(nn.relu(conv1(x)))) for x in (ir, vis))
        f_ir = Branch(ReleasedDFAG, name="ir")(first_ir)
        cea = partial(ReleasedCEA, self.corner_skip)
        f_vis = Branch(cea, name="vis")(first_vis)
        x = fused = fuse_features(f_ir, f_vis)
        for i, features in enumerate((*SIZES.decoder, DECODED_CHANNELS)):
            x = _conv_relu(x, features, f"decoder{i + 1}")
        out = {"branch_ir": f_ir, "branch_vis": f_vis, "fused": fused, "decoded": x}
        return x, out


class Released(nn.Module):
    """The released network: fuses a low-resolution pair at `scale` times its size.

    Its parameters are the two subtrees `fusion` and `sr`; `sr` has the names and
    shapes of that of our own `full` Student.

    Attributes:
      scale: 2, 3 or 4.
      corner_skip: `feature` or `map`; see `Corner`.
      portable: whether to trace the form for export, see `ops.portable`.
    """

    scale: int
    corner_skip: str = "feature"
    portable: bool = False

    def setup(self):
        """Declares the two parts."""
        self.fusion = ReleasedFusionPart(self.corner_skip)
        self.sr = SuperResolutionPart(SIZES, self.scale)

    def __call__(
        self, ir: jax.Array, vis: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Fuses float [N, H, W, 1] images in [0, 1], H and W at least 2.

        Returns:
          image: float32 [N, scale * H, scale * W, 1], not clipped.
          out: `branch_ir`, `branch_vis`, `fused`, `decoded` (16 channels),
            `upsampled`, `tail` (16 channels).
        """
        with portable.form(self.portable):
            decoded, out = self.fusion(ir, vis)
            image, sr_out = self.sr(decoded)
        return image, out | sr_out
