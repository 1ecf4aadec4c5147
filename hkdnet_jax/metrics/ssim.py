"""SSIM, structural similarity, mean over both sources.

    SSIM = (ssim(A, F) + ssim(B, F)) / 2

ssim is the mean over all positions of an 11x11 Gaussian window of sigma 1.5 wholly
inside the image, K1 = 0.01, K2 = 0.03, levels 0..255, population (co)variances.  Range
-1 to 1, higher is better.  Fusion tables often print the sum of the two; MATLAB's
`ssim` also takes positions up to the border, of a padded image.
Source: Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: From error
visibility to structural similarity", IEEE Transactions on Image Processing 13(4), 2004.
"""

import jax
import jax.numpy as jnp

from hkdnet_jax.metrics.windows import gaussian, window_sum

_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2


def ssim(ir: jax.Array, vis: jax.Array, fused: jax.Array) -> jax.Array:
    """Mean similarity to both sources, see the module.

    Args:
      ir, vis, fused: floating [H, W], levels 0..255; H and W at least 11.

    Returns:
      Scalar.
    """
    images = jnp.stack([ir, vis, fused])
    products = jnp.concatenate([images, images**2, images[:2] * images[2:]])
    means = window_sum(products, gaussian(11, 1.5))
    variance = means[3:6] - means[:3] ** 2
    mean, mean_f = means[:2], means[2:3]
    covariance = means[6:] - mean * mean_f
    luminance = (2 * mean * mean_f + _C1) / (mean**2 + mean_f**2 + _C1)
    structure = (2 * covariance + _C2) / (variance[:2] + variance[2:] + _C2)
    return jnp.mean(luminance * structure)
