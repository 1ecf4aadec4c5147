"""Types of the metrics' arguments and results, which tests check at run time."""

from jaxtyping import Array, Float

Image = Float[Array, "h w"]  # levels 0..255
Scalar = Float[Array, ""]
