"""SCD, sum of the correlations of differences.

    SCD = corr(F - B, A) + corr(F - A, B)

What F adds to one source should look like the other one.  Range [-2, 2], higher is
better; the differences are signed, so the absolute level of F does not matter, but its
contrast does.
Source: Aslantas & Bendes, "A new image quality metric for image fusion: The sum of the
correlations of differences", AEU 69(12), 2015.
"""

from hkdnet_jax.metrics.statistics import correlation
from hkdnet_jax.metrics.types import Image


def scd(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the sum of the correlations of differences; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255.

    Returns:
      Scalar; NaN if a source or a difference is constant.
    """
    return correlation(fused - vis, ir) + correlation(fused - ir, vis)
