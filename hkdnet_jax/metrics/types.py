"""Types of the metrics' arguments and results, which tests check at run time."""

import numpy as np
from jaxtyping import Array, Float, Float64

Image = Float[Array, "h w"]  # levels 0..255
Scalar = Float[Array, ""]
HostImage = Float64[np.ndarray, "h w"]  # levels 0..255, for metrics of any size
