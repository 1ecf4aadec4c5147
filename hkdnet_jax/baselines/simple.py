"""The two methods that have no weights: an average, and bicubic enlargement.

They are the floor that any other method should be above.
"""

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.baselines.types import Image

IR_SHARE = 2 / 3  # as in the released pictures of HKDnet's authors


def average(ir: Image, vis: Image) -> Image:
    """Two thirds of the infrared and one third of the visible image."""
    return (IR_SHARE * ir + (1 - IR_SHARE) * vis).astype(np.float32)


def bicubic(image: Image, scale: float) -> Image:
    """Enlarges by the Keys cubic (a = -0.5), not clipped; the scale may be any."""
    shape = tuple(round(scale * side) for side in image.shape)
    return np.asarray(jax.image.resize(jnp.asarray(image), shape, "cubic"))
