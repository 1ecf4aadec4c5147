"""AG, average gradient of the fused image.

    AG = sum over all H * W pixels of sqrt((gx^2 + gy^2) / 2) / ((H - 1) (W - 1))

gx and gy are central differences, one-sided on the first and last row and column, of F
scaled to [0, 1].  The divisor is that of the published code, not the number of terms.
Range [0, inf), higher counts as better; the sources are not used.
Source: Cui, Feng, Xu, Li & Chen, Optics Communications 341, 2015, as the public
evaluation scripts compute it.
"""

import numpy as np

from hkdnet_jax.metrics.types import Image


def ag(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the average gradient; see the module.

    Args:
      ir, vis: not used; every metric takes the same arguments.
      fused: float64 [H, W], levels 0..255; H and W at least 2.

    Returns:
      Scalar, the mean step between neighbouring pixels as a share of the full range.
    """
    del ir, vis
    height, width = fused.shape
    # The scaling comes last, because differences of whole levels are exact.
    gy, gx = np.gradient(fused)
    total = np.sum(np.sqrt((gx**2 + gy**2) / 2)) / 255
    return float(total / ((height - 1) * (width - 1)))
