"""EN, entropy of the fused image.

    EN = sum over levels l of p_l log2(1 / p_l)

p_l is the share of pixels with level l, 256 levels.  Range 0 to 8 bits, 0 for a flat
image; higher counts as better; the sources are not used.  It equals MATLAB's
`entropy` of the uint8 image; some toolboxes use the natural logarithm.
Source: Roberts, van Aardt & Ahmed, "Assessment of image fusion procedures using
entropy, image quality, and multispectral classification", Journal of Applied Remote
Sensing 2, 2008.
"""

import numpy as np

from hkdnet_jax.metrics.types import Image


def en(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the entropy in bits; see the module.

    Args:
      ir, vis: not used; every metric takes the same arguments.
      fused: float64 [H, W], whole levels 0..255.

    Returns:
      Scalar.
    """
    del ir, vis
    share = np.bincount(fused.astype(np.int64).ravel(), minlength=256) / fused.size
    # It is log2(1 / p) rather than -log2(p), so that a flat image has 0, not -0.
    return float(np.sum(share * np.log2(1 / np.where(share == 0, 1, share))))
