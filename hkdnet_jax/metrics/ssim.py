"""SSIM, structural similarity, mean over both sources.

    SSIM = (ssim(A, F) + ssim(B, F)) / 2

ssim is the mean over all positions of an 11x11 Gaussian window of sigma 1.5 that fits
inside the image, with K1 = 0.01, K2 = 0.03, levels 0..255 and population (co)variances.
Range -1 to 1, higher is better.  Fusion tables often print the sum of the two; MATLAB's
`ssim` pads the image and includes the positions up to the border.
Source: Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: From error
visibility to structural similarity", IEEE Transactions on Image Processing 13(4), 2004.
"""

import jax.numpy as jnp

from hkdnet_jax.losses import quality
from hkdnet_jax.metrics.types import Image, Scalar


def ssim(ir: Image, vis: Image, fused: Image) -> Scalar:
    """Computes the mean similarity to both sources; see the module.

    Args:
      ir, vis, fused: floating [H, W], levels 0..255; H and W at least 11.

    Returns:
      Scalar.
    """
    sources, both = jnp.stack([ir, vis]), jnp.stack([fused, fused])
    of_each = quality.ssim(sources[..., None], both[..., None], data_range=255.0)
    return jnp.mean(of_each)
