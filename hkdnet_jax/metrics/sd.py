"""SD, standard deviation of the fused image.

    SD = sqrt(mean((F - mean F)^2))

F is in levels 0..255, and the mean is over the number of pixels (MATLAB's `std2`
divides by one less).  Range 0 to 127.5, 0 for a flat image; higher counts as better;
the sources are not used.  Toolboxes that scale images to [0, 1] print 1/255 of it.
Source: Rao, "In-fibre Bragg grating sensors", Measurement Science and Technology 8,
1997, as fusion papers cite it.
"""

import numpy as np

from hkdnet_jax.metrics.types import Image


def sd(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the standard deviation in levels; see the module.

    Args:
      ir, vis: not used; every metric takes the same arguments.
      fused: float64 [H, W], levels 0..255.

    Returns:
      Scalar.
    """
    del ir, vis
    return float(np.std(fused))
