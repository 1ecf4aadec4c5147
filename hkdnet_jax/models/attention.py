"""The attention modules of the student: DFAG for infrared, CEA for visible.

Arrays are [N, H, W, C].  Equation numbers are those of Xiao et al., IEEE TIM 2022.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.models import strips
from hkdnet_jax.models.blocks import RCAB
from hkdnet_jax.models.remat import conv_output, rematerialized
from hkdnet_jax.ops import portable
from hkdnet_jax.ops.barriers import after
from hkdnet_jax.ops.conv import Conv1x1, Conv3x3
from hkdnet_jax.ops.extent import Extent, clear
from hkdnet_jax.ops.harris import corner_mask
from hkdnet_jax.ops.position_attention import position_attention
from hkdnet_jax.runtime.precision import FULL

# The axes of [N, H, W, C] that each reading of Eq. 6 normalises over.
DFA_AXES = {"spatial": (1, 2), "width": (2,), "channel": (3,)}


def dual_frequency_weights(
    product: jax.Array, softmax: str, extent: Extent | None = None
) -> jax.Array:
    """Computes Eq. 6, `M = softmax(D1 * D2)`, times the number of normalised entries.

    The mean weight is then 1, so that the strength of the attention does not depend
    on the image size.

    Args:
      product: D1 * D2, [N, H, W, C].
      softmax: `spatial` (over H * W for each channel), `width` or `channel`.
      extent: of the images; see `ops.extent`.

    Returns:
      float32 [N, H, W, C].

    Raises:
      ValueError: `softmax` is none of these.
    """
    if softmax not in DFA_AXES:
        raise ValueError(f"softmax must be one of {list(DFA_AXES)}, got {softmax!r}")
    axes = DFA_AXES[softmax]
    logits = product.astype(jnp.float32)
    count = 1
    for axis in axes:
        count *= logits.shape[axis]
    if extent is not None and softmax == "spatial":
        count = extent.pixels()
        logits = jnp.where(extent.inside(logits), logits, -jnp.inf)
    elif extent is not None and softmax == "width":
        count = extent.width.astype(jnp.float32)[:, None, None, None]
        logits = jnp.where(extent.columns(logits.shape[2]), logits, -jnp.inf)
    return count * portable.softmax(logits, axes)


class DFAB(nn.Module):
    """Dual-frequency attention block (Eq. 6, 7): `D + delta * M * D3`.

    Two RCABs give D, and three 3x3 convolutions of D give D1, D2 and D3.  The scalar
    delta is learned and starts at `start`.  Of large images the three convolutions are
    computed in strips of rows if `in_strips` is set.
    """

    reduction: int
    softmax: str
    start: float = 0.0
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL
    in_strips: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        d = RCAB(self.reduction, **arithmetic, name="rcab1")(x, extent)
        d = RCAB(self.reduction, **arithmetic, name="rcab2")(d, extent)
        product, d3 = self._compared_in_strips(d, extent)
        weights = dual_frequency_weights(product, self.softmax, extent)
        delta = self.param("delta", nn.initializers.constant(self.start), ())
        return d + delta.astype(self.dtype) * weights.astype(self.dtype) * d3

    def _compared(
        self, d: jax.Array, extent: Extent | None
    ) -> tuple[jax.Array, jax.Array]:
        """Maps D to D1 * D2 and D3."""
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        # One convolution to 3 C channels computes the paper's three side by side.
        conv = Conv3x3(3 * d.shape[-1], **arithmetic, name="conv123")
        d1, d2, d3 = jnp.split(conv_output(conv(d, extent)), 3, axis=-1)
        return d1 * d2, d3

    def _compared_in_strips(
        self, d: jax.Array, extent: Extent | None
    ) -> tuple[jax.Array, jax.Array]:
        """Does the same in strips of rows where that saves memory."""
        number = strips.number_of(d.shape, 3) if self.in_strips else 1
        if number == 1:
            return self._compared(d, extent)

        def compare(
            block: nn.Module, strip: jax.Array, start: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            inside = extent and extent._replace(height=extent.height - start)
            return block._compared(strip, inside)

        made = (jax.ShapeDtypeStruct(d.shape, d.dtype),) * 2
        return strips.by_strips(self, compare, d, made, number)


class DFAG(nn.Module):
    """Dual-frequency attention group: `x + conv(DFABs(x))` (Fig. 2)."""

    blocks: int
    reduction: int
    softmax: str
    start: float = 0.0
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL
    remat: str = "none"
    in_strips: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        block = rematerialized(DFAB, self.remat)
        dfab = partial(block, self.reduction, self.softmax, self.start)
        y = x
        for i in range(self.blocks):
            name = f"dfab{i + 1}"
            y = dfab(**arithmetic, in_strips=self.in_strips, name=name)(y, extent)
        return x + Conv3x3(x.shape[-1], **arithmetic, name="conv")(y, extent)


def channel_attention(
    x: jax.Array,
    softmax: str,
    precision: str = FULL,
    extent: Extent | None = None,
) -> jax.Array:
    """Applies attention with the Gram matrix of x over its channels (Eq. 12, 13).

    The Gram matrix is divided by the number of positions, so that its sharpness does
    not depend on the image size.

    Args:
      x: [N, H, W, C].
      softmax: `row` (a channel's weights over all channels sum to 1) or `joint` (the
        literal Eq. 12: one softmax over all C * C pairs).
      precision: precision of float32 products; see `runtime.precision`.
      extent: of the images; see `ops.extent`.

    Returns:
      [N, H, W, C] of x's dtype; the softmax is float32.

    Raises:
      ValueError: `softmax` is none of these.
    """
    if softmax not in ("row", "joint"):
        raise ValueError(f"softmax must be row or joint, got {softmax!r}")
    n, h, w, c = x.shape
    features = x.reshape(n, h * w, c)
    gram = jnp.einsum(
        "npc,npd->ncd",
        features,
        features,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    axes = (-1,) if softmax == "row" else (-2, -1)
    positions = h * w if extent is None else extent.pixels()[..., 0]
    weights = portable.softmax(gram / positions, axes).astype(x.dtype)
    mixed = jnp.einsum("ncd,npd->npc", weights, features, precision=precision)
    return mixed.reshape(n, h, w, c)


class CEA(nn.Module):
    """Corner embedding attention (Fig. 3, Eq. 8 to 13) of the visible branch.

    A 1x1 convolution gives F_b.  Three parallel modules, each `scale * term + F_b`
    with a learned scale that starts at `start`, are summed and mixed by another 1x1
    convolution:

    - corner (Eq. 8, 9): `beta * B * M + F_b`, where B is a 1x1 convolution of F_b and M
      the corner mask;
    - position (Eq. 10, 11) and channel (Eq. 12, 13): Gram-matrix attention.

    Attributes:
      corner_gamma: threshold of the corner mask as a share of the channel's maximum.
      position_softmax: `row` or `joint`.
      channel_softmax: `row` or `joint`.
      position_pool: side in pixels of the squares over which keys and values are
        averaged.
      position_keys: most such squares, or 0; see `ops.position_attention`.
      attention: implementation of the position attention; see
        `ops.position_attention`.
      start: value at which the learned scales start.
    """

    corner_gamma: float
    position_softmax: str
    channel_softmax: str
    position_pool: int = 1
    position_keys: int = 0
    attention: str = "auto"
    start: float = 0.0
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL
    in_strips: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, extent: Extent | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps [N, H, W, C] to the same shape; also returns the modules' outputs."""
        c = x.shape[-1]

        def scale(name: str) -> jax.Array:
            start = nn.initializers.constant(self.start)
            return self.param(name, start, ()).astype(self.dtype)

        conv = partial(Conv1x1, c, dtype=self.dtype, precision=self.precision)
        f_b = clear(conv(name="conv_in")(x), extent)
        if self.in_strips and strips.is_large(f_b):
            # Or the compiler adds the bias again for each reader, and holds them all.
            f_b = after(f_b, x[0, 0, 0, 0])
        b = conv(name="conv_corner")(f_b)
        mask = corner_mask(f_b, self.corner_gamma, extent=extent)
        position = position_attention(
            f_b,
            self.position_softmax,
            self.attention,
            self.position_pool,
            self.position_keys,
            precision=self.precision,
            extent=extent,
        )
        arguments = f_b, self.channel_softmax, self.precision, extent
        channel = channel_attention(*arguments)
        out = {
            "corner": scale("beta") * b * mask + f_b,
            "position": scale("position_scale") * position + f_b,
            "channel": scale("channel_scale") * channel + f_b,
        }
        total = out["corner"] + out["position"] + out["channel"]
        mixed = clear(conv(name="conv_out")(total), extent)
        return mixed, out | {"corner_mask": mask}
