"""Types of what the metrics take and give; the tests check them at run time."""

from jaxtyping import Array, Float

Image = Float[Array, "h w"]  # levels 0..255
Scalar = Float[Array, ""]
