"""PSNR, peak signal-to-noise ratio against both sources.

    PSNR = 10 log10(255^2 / ((MSE(A, F) + MSE(B, F)) / 2))

MSE is the mean of the squared differences in levels 0..255.  In dB, higher is better;
infinite only if F equals both sources.  Other toolboxes use the mean of two PSNRs, the
peak of F, or 255 as the peak of images in [0, 1], which adds 48.13 dB.
Source: the public fusion evaluation scripts; Jagalingam & Hegde, "A review of quality
metrics for fused image", Aquatic Procedia 4, 2015.
"""

import numpy as np

from hkdnet_jax.metrics.types import Image


def psnr(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the ratio in dB; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255.

    Returns:
      Scalar; infinite if all three are equal.
    """
    error = (np.mean((ir - fused) ** 2) + np.mean((vis - fused) ** 2)) / 2
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
