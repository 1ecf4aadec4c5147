"""PSNR, peak signal-to-noise ratio against both sources.

    PSNR = 10 log10(255^2 / ((MSE(A, F) + MSE(B, F)) / 2))

MSE is the mean of the squared differences in levels 0..255.  In dB, higher is better;
infinite only if F equals both sources.  Other toolboxes use the mean of two PSNRs, the
peak of F, or 255 as the peak of images in [0, 1], which adds 48.13 dB.
Source: the public fusion evaluation scripts; Jagalingam & Hegde, "A review of quality
metrics for fused image", Aquatic Procedia 4, 2015.
"""

import jax.numpy as jnp

from hkdnet_jax.losses.quality import decibels
from hkdnet_jax.metrics.types import Image, Scalar


def psnr(ir: Image, vis: Image, fused: Image) -> Scalar:
    """Computes the ratio in dB; see the module.

    Args:
      ir, vis, fused: floating [H, W], levels 0..255.

    Returns:
      Scalar; infinite if all three are equal.
    """
    error = (jnp.mean((ir - fused) ** 2) + jnp.mean((vis - fused) ** 2)) / 2
    return decibels(error, data_range=255.0)
