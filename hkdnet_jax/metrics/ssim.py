"""SSIM, structural similarity, mean over both sources.

    SSIM = (ssim(A, F) + ssim(B, F)) / 2

ssim is the mean over all positions of an 11x11 Gaussian window of sigma 1.5 that fits
inside the image, with K1 = 0.01, K2 = 0.03, levels 0..255 and population (co)variances.
Range -1 to 1, higher is better.  Fusion tables often print the sum of the two; MATLAB's
`ssim` pads the image and includes the positions up to the border.
Source: Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: From error
visibility to structural similarity", IEEE Transactions on Image Processing 13(4), 2004.
"""

import numpy as np

from hkdnet_jax.losses import quality
from hkdnet_jax.metrics.types import Image
from hkdnet_jax.metrics.windows import window_sum
from hkdnet_jax.ops.filters import gaussian


def ssim(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the mean similarity to both sources; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255; H and W at least 11.

    Returns:
      Scalar.
    """
    return float(np.mean([_similarity(source, fused) for source in (ir, vis)]))


def _similarity(a: Image, b: Image) -> np.ndarray:
    """SSIM of two images in each window."""
    offset_a, offset_b = (np.mean(x, keepdims=True) for x in (a, b))
    a, b = a - offset_a, b - offset_b
    products = np.stack([a, b, a * a + b * b, a * b])
    moments = window_sum(products, gaussian(quality.WINDOW, quality.SIGMA))
    return quality.similarity(*moments, offset_a, offset_b, data_range=255.0)
