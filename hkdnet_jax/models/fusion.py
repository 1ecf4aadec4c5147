"""The parameter-free fusion layer shared by teacher and student (Eq. 14-16)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

Features = Float[Array, "n h w c"]
Plane = Float32[Array, "n h w 1"]
Number = float | Float[Array, ""]


def l1_norm(features: Features) -> Plane:
    """Sum of magnitudes over the channels: [N, H, W, C] to float32 [N, H, W, 1]."""
    return jnp.sum(jnp.abs(features.astype(jnp.float32)), axis=-1, keepdims=True)


def activity(features: Features, damping: Number = 0.0) -> Plane:
    """Eq. 14 up to a factor: l1 norm over the channels, summed over 3x3 pixels.

    The paper's mean differs by 1/9, or by 1/6 and 1/4 at the border, where the window
    is cut off; that factor cancels in the ratio of Eq. 15.

    Args:
      features: [N, H, W, C].
      damping: added to each pixel's norm, not negative.

    Returns:
      float32 [N, H, W, 1], not negative.
    """
    l1 = l1_norm(features) + damping
    # The plain 0.0 matters: jax knows how to differentiate a sum from that only.
    return lax.reduce_window(l1, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


def infrared_weight(ir: Features, vis: Features, damping: Number = 0.0) -> Plane:
    """Eq. 15: `M_ir / (M_ir + M_vis)`, 1/2 where the sum vanishes (up to 1e-12).

    Args:
      ir: [N, H, W, C].
      vis: as ir.
      damping: see `activity`; the larger it is, the nearer to 1/2 is the weight, and
        the less does noise in dark places move it. Not in the paper.

    Returns:
      float32 [N, H, W, 1] in [0, 1].
    """
    m_ir, m_vis = activity(ir, damping), activity(vis, damping)
    total = m_ir + m_vis
    # Not merely above 0: the gradient divides by the square, which must not vanish.
    alive = total > 1e-12
    return jnp.where(alive, m_ir / jnp.where(alive, total, 1.0), 0.5)


def fuse_features(ir: Features, vis: Features, damping: Number = 0.0) -> Features:
    """Eq. 16: the weighted sum of both modalities' features.

    Args:
      ir: [N, H, W, C].
      vis: as ir.
      damping: see `infrared_weight`.

    Returns:
      [N, H, W, C] of ir's dtype.
    """
    weight = infrared_weight(ir, vis, damping).astype(ir.dtype)
    return weight * ir + (1.0 - weight) * vis


def fuse_images(
    ir: Float[Array, "n h w 1"],
    vis: Float[Array, "n h w 1"],
    alpha: Number,
    damping: Number,
) -> Float[Array, "n h w 1"]:
    """Eq. 5 and 14 to 16 of the images themselves, as features of one channel.

    Divided by 2 + alpha, so that two equal images give that image.  A trained teacher's
    picture differs little from it: its encoder and decoder reconstruct.

    Args:
      ir: [N, H, W, 1].
      vis: as ir.
      alpha: weight of the visible features in Eq. 5.
      damping: see `infrared_weight`; a white pixel's norm is 1.

    Returns:
      [N, H, W, 1] of ir's dtype.
    """
    return (ir + alpha * vis + fuse_features(ir, vis, damping)) / (2.0 + alpha)
