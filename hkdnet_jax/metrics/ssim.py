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

from hkdnet_jax.metrics.types import Image
from hkdnet_jax.metrics.windows import window_sum
from hkdnet_jax.ops.filters import gaussian

_SIDE, _SIGMA = 11, 1.5  # pixels
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the mean similarity to both sources; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255; H and W at least 11.

    Returns:
      Scalar.
    """
    images = np.stack([ir, vis, fused])
    # (Co)variances do not change with the mean, and lose fewer digits near 0.
    offsets = np.mean(images, axis=(1, 2), keepdims=True)
    images = images - offsets
    products = np.concatenate([images, images**2, images[:2] * images[2]])
    moments = window_sum(products, gaussian(_SIDE, _SIGMA))
    means, squares, mixed = moments[:3], moments[3:6], moments[6:]
    variances = squares - means**2
    covariances = mixed - means[:2] * means[2]
    means = means + offsets
    luminance = (2 * means[:2] * means[2] + _C1) / (
        means[:2] ** 2 + means[2] ** 2 + _C1
    )
    structure = (2 * covariances + _C2) / (variances[:2] + variances[2] + _C2)
    return float(np.mean(luminance * structure))
