"""The parameter-free fusion layer shared by teacher and student (Eq. 14-16)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from hkdnet_jax.ops.extent import Extent, clear

Features = Float[Array, "n h w c"]
Plane = Float32[Array, "n h w 1"]
Number = float | Float[Array, ""]


def l1_norm(features: Features) -> Plane:
    """Sums magnitudes over the channels: [N, H, W, C] to float32 [N, H, W, 1]."""
    return jnp.sum(jnp.abs(features.astype(jnp.float32)), axis=-1, keepdims=True)


def activity(
    features: Features, damping: Number = 0.0, extent: Extent | None = None
) -> Plane:
    """Computes Eq. 14 up to a factor: the l1 norm of a pixel, summed over 3x3 pixels.

    The paper's mean differs by a factor of 1/9, or of 1/6 and 1/4 at the border, where
    the window is cut off; this factor cancels in the ratio of Eq. 15.

    Args:
      features: [N, H, W, C].
      damping: a non-negative number that is added to each pixel's norm.
      extent: of the images; see `ops.extent`.

    Returns:
      float32 [N, H, W, 1], non-negative.
    """
    l1 = clear(l1_norm(features) + damping, extent)
    # The literal 0.0 matters: only with it does jax recognise a sum and its gradient.
    return lax.reduce_window(l1, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


def infrared_weight(
    ir: Features,
    vis: Features,
    damping: Number = 0.0,
    extent: Extent | None = None,
) -> Plane:
    """Computes Eq. 15, `M_ir / (M_ir + M_vis)`; 1/2 where the sum is at most 1e-12.

    Args:
      ir: [N, H, W, C].
      vis: like ir.
      damping: see `activity`; the larger it is, the closer the weight is to 1/2, and
        the less noise moves it in dark places.  It is not in the paper.
      extent: of the images; see `ops.extent`.

    Returns:
      float32 [N, H, W, 1] in [0, 1].
    """
    m_ir, m_vis = (activity(features, damping, extent) for features in (ir, vis))
    total = m_ir + m_vis
    # The bound is above 0, because the gradient divides by the square of the sum, which
    # must not vanish.
    alive = total > 1e-12
    return jnp.where(alive, m_ir / jnp.where(alive, total, 1.0), 0.5)


def fuse_features(
    ir: Features,
    vis: Features,
    damping: Number = 0.0,
    extent: Extent | None = None,
) -> Features:
    """Computes Eq. 16, the weighted sum of both modalities' features.

    Args:
      ir: [N, H, W, C].
      vis: like ir.
      damping: see `infrared_weight`.
      extent: of the images; see `ops.extent`.

    Returns:
      [N, H, W, C] of ir's dtype.
    """
    weight = infrared_weight(ir, vis, damping, extent).astype(ir.dtype)
    return weight * ir + (1.0 - weight) * vis


def fuse_images(
    ir: Float[Array, "n h w 1"],
    vis: Float[Array, "n h w 1"],
    alpha: Number,
    damping: Number,
    extent: Extent | None = None,
) -> Float[Array, "n h w 1"]:
    """Applies Eq. 5 and 14 to 16 to the images themselves, as one-channel features.

    The sum is divided by 2 + alpha, so that two equal images give that image.  A
    trained teacher's picture differs little from the result, because its encoder and
    decoder reconstruct.

    Args:
      ir: [N, H, W, 1] in [0, 1].
      vis: like ir.
      alpha: weight of the visible features in Eq. 5.
      damping: see `infrared_weight`; the norm of a white pixel is 1.
      extent: of the images; see `ops.extent`.

    Returns:
      [N, H, W, 1] of ir's dtype.
    """
    fused = fuse_features(ir, vis, damping, extent)
    return (ir + alpha * vis + fused) / (2.0 + alpha)
