"""MI, mutual information of the fused image with both sources.

    MI = I(A; F) + I(B; F)
    I(X; F) = sum over levels a, l of p_al log2(p_al / (p_a p_l))

p_al is the share of pixels with level a in X and l in F, from a 256 x 256 joint
histogram; p_a and p_l are its sums.  Range 0 to 16 bits, higher is better; a flat image
shares nothing, so its term is 0.  Other toolboxes use the natural logarithm, stretch
the images to their own range first, or normalise by the entropies.
Source: Qu, Zhang & Yan, "Information measure for performance of image fusion",
Electronics Letters 38(7), 2002.
"""

import numpy as np

from hkdnet_jax.metrics.types import Image


def mi(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the mutual information with both sources in bits; see the module.

    Args:
      ir, vis, fused: float64 [H, W], whole levels 0..255.

    Returns:
      Scalar.
    """
    return _shared_bits(ir, fused) + _shared_bits(vis, fused)


def _shared_bits(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the mutual information of two images of whole levels, in bits."""
    cells = (256 * x + y).astype(np.int64)
    joint = np.bincount(cells.ravel(), minlength=256 * 256).reshape(256, 256)
    joint = joint.astype(np.float64)
    # These are counts rather than shares, because with whole numbers a flat image gives
    # exactly 0.
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    ratio = np.where(joint == 0, 1, joint * x.size / np.where(apart == 0, 1, apart))
    return float(np.sum(joint * np.log2(ratio)) / x.size)
