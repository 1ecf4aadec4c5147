"""SF, spatial frequency of the fused image.

    SF = sqrt(RF^2 + CF^2)

RF^2 is the mean of the squared differences of horizontal neighbours, CF^2 of vertical
ones, each over its own number of terms, in levels 0..255.  Range 0 to 255 sqrt(2), 0
for a flat image; higher counts as better; the sources are not used.  Many scripts
divide both sums by H W, which gives a little less; some scale images to [0, 1].
Source: Eskicioglu & Fisher, "Image quality measures and their performance", IEEE
Transactions on Communications 43(12), 1995.
"""

import numpy as np

from hkdnet_jax.metrics.types import Image


def sf(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the spatial frequency in levels; see the module.

    Args:
      ir, vis: not used; every metric takes the same arguments.
      fused: float64 [H, W], levels 0..255; H and W at least 2.

    Returns:
      Scalar.
    """
    del ir, vis
    rows, columns = (np.mean(np.diff(fused, axis=axis) ** 2) for axis in (1, 0))
    return float(np.sqrt(rows + columns))
