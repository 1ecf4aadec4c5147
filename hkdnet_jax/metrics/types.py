"""Types of the metrics' arguments, which tests check at run time."""

import numpy as np
from jaxtyping import Float64

Image = Float64[np.ndarray, "h w"]  # levels 0..255
