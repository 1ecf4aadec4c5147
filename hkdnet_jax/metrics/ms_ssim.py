"""MS_SSIM, the multi-scale structural similarity for image fusion (MEF-SSIM).

For each 11x11 patch the two sources give one reference patch r: the directions of their
mean-free patches are summed, weighted by strength, and stretched to the contrast of the
stronger one.  The fused patch f is compared with it,

    q = (2 s_rf + C) / (s_r^2 + s_f^2 + C),   C = (0.03 * 255)^2,

with Gaussian-weighted (co)variances (sigma 1.5) and no luminance term.  With Q_l the
mean of q at scale l, and each scale half the size of the one before,

    MS_SSIM = Q_1^b1 Q_2^b2 Q_3^b3,   b = (0.0448, 0.2856, 0.3001) / 0.6305.

Range up to 1, higher is better; levels 0..255 (the constants do not scale with them).
Source: Ma, Zeng & Wang, "Perceptual quality assessment for multi-exposure image
fusion", IEEE TIP 24(11), 2015, and its public MATLAB code with three scales.
"""

import numpy as np
from jaxtyping import Float64

from hkdnet_jax.metrics.types import Image
from hkdnet_jax.metrics.windows import window_sum
from hkdnet_jax.ops.filters import gaussian

_SIDE = 11  # side of a patch, pixels
_PIXELS = _SIDE * _SIDE
_SIGMA = 1.5
_C = (0.03 * 255) ** 2
_EPS = 2.0**-52
_FLOOR = 0.001  # added to a patch's strength, so that flat patches have one
_MAX_EXPONENT = 10
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001)
MIN_SIDE = 4 * _SIDE  # the coarsest scale is a quarter of the size


def ms_ssim(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the multi-scale structural similarity; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255, H and W at least MIN_SIDE; float32
        would lose the contrast of nearly flat patches.

    Returns:
      Scalar; NaN if a Q_l is below 0 (as for an inverted image), because the product is
      then not real.
    """
    images = (ir, vis, fused)
    result = 1.0
    for weight in _SCALE_WEIGHTS:
        result *= np.mean(quality_map(*images)) ** (weight / sum(_SCALE_WEIGHTS))
        images = tuple(_halve(image) for image in images)
    return float(result)


def quality_map(
    ir: Image, vis: Image, fused: Image
) -> Float64[np.ndarray, "h-10 w-10"]:
    """Computes q of every patch inside the images: [H, W] to [H - 10, W - 10]."""
    # The sums over a patch are exact in float64: levels are whole numbers, or quarters
    # and sixteenths at the coarser scales.
    products = np.stack([ir, vis, ir**2, vis**2, ir * vis])
    sum_a, sum_b, sum_aa, sum_bb, sum_ab = window_sum(products, np.ones(_SIDE))
    share_a, share_b = _reference_shares(
        (_PIXELS * sum_aa - sum_a**2) / _PIXELS,
        (_PIXELS * sum_bb - sum_b**2) / _PIXELS,
        (_PIXELS * sum_ab - sum_a * sum_b) / _PIXELS,
    )
    # The reference patch is share_a * ir + share_b * vis up to a constant, which does
    # not change (co)variances.
    products = np.stack(
        [ir, vis, fused, ir**2, vis**2, fused**2, ir * vis, ir * fused, vis * fused]
    )
    means = window_sum(products, gaussian(_SIDE, _SIGMA))
    a, b, f, aa, bb, ff, ab, af, bf = means
    var_r = share_a**2 * (aa - a**2) + share_b**2 * (bb - b**2)
    var_r += 2 * share_a * share_b * (ab - a * b)
    cov_rf = share_a * (af - a * f) + share_b * (bf - b * f)
    return (2 * cov_rf + _C) / (var_r + ff - f**2 + _C)


def _reference_shares(
    square_a: np.ndarray, square_b: np.ndarray, product: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the weights of both mean-free source patches in the reference patch.

    Args:
      square_a, square_b: squared norms of the mean-free patches.
      product: their inner product.
    """
    norm_a, norm_b = _root(square_a), _root(square_b)
    strength_a, strength_b = norm_a + _FLOOR, norm_b + _FLOOR
    together = _root(square_a + square_b + 2 * product)
    # 1 where both patches have the same structure, 0 where they are opposed.
    consistency = (together + _EPS) / (norm_a + norm_b + _EPS)
    consistency = np.where(consistency > 1, 1 - _EPS, consistency)
    # The more they agree, the more the stronger one counts.
    exponent = np.minimum(np.tan(np.pi / 2 * consistency), _MAX_EXPONENT)
    weight_a = (strength_a / _SIDE) ** exponent + _EPS
    weight_b = (strength_b / _SIDE) ** exponent + _EPS
    total = weight_a + weight_b
    share_a = weight_a / total / strength_a
    share_b = weight_b / total / strength_b
    norm = _root(
        share_a**2 * square_a + share_b**2 * square_b + 2 * share_a * share_b * product
    )
    # Opposed patches of equal strength cancel except for rounding, and no structure
    # remains.
    remains = norm > 1e-7 * (share_a * norm_a + share_b * norm_b)
    stretch = np.maximum(strength_a, strength_b) / np.where(remains, norm, 1)
    stretch = np.where(remains, stretch, 0)
    return share_a * stretch, share_b * stretch


def _root(x: np.ndarray) -> np.ndarray:
    """Computes the square root of values that are negative only by rounding."""
    return np.sqrt(np.maximum(x, 0))


def _halve(x: np.ndarray) -> np.ndarray:
    """Averages 2x2 blocks; an odd last row or column is repeated."""
    h, w = x.shape
    x = np.pad(x, ((0, h % 2), (0, w % 2)), mode="edge")
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
