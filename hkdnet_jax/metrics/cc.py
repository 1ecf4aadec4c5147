"""CC, correlation coefficient.

    CC = (corr(A, F) + corr(B, F)) / 2

A is the infrared, B the visible, F the fused image, corr Pearson's correlation over all
pixels.  Range [-1, 1], higher is better; unchanged by a positive affine change of F.
Source: the public fusion evaluation scripts; Ma, Ma & Li, "Infrared and visible image
fusion methods and applications: A survey", Information Fusion 45, 2019.
"""

from hkdnet_jax.metrics.statistics import correlation
from hkdnet_jax.metrics.types import Image


def cc(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the mean correlation with both sources; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255.

    Returns:
      Scalar; NaN if any image is flat.
    """
    return (correlation(ir, fused) + correlation(vis, fused)) / 2
