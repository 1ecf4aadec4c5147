"""Arithmetic on pictures: gray images as files hold them, uint8 [H, W].

Comparisons and scores always use the 8-bit picture, never the network's output.
"""

import jax
import numpy as np
from PIL import Image

from hkdnet_jax.common import arrays

IR_SHARE = 2 / 3  # of the weighted average, as in the authors' released pictures
Picture = np.ndarray  # uint8 [H, W]


def as_batch(picture: Picture) -> jax.Array:
    """Maps uint8 [H, W] to float32 [1, H, W, 1] in [0, 1]."""
    return arrays.to_float(picture[None, :, :, None])


def crop_to_multiple(picture: Picture, multiple: int) -> Picture:
    """Crops at the bottom and right until `multiple` divides both sides."""
    height, width = (side - side % multiple for side in picture.shape)
    return picture[:height, :width]


def degrade_picture(picture: Picture, scale: float) -> Picture:
    """Makes the low-resolution picture as training does, see `arrays.degrade`.

    Pillow makes the same picture, and compiles nothing for a size.

    Args:
      picture: uint8 [H, W]; H and W divisible by `scale`.
      scale: at least 1.

    Returns:
      uint8 [H / scale, W / scale].
    """
    height, width = picture.shape
    size = [round(side / scale) for side in (width, height)]
    if [scale * side for side in size] != [width, height]:
        raise ValueError(f"{height}x{width} is not divisible by the scale {scale}")
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


def enlarge(picture: Picture, scale: int) -> Picture:
    """Bicubic enlargement, clipped and rounded to uint8 [scale * H, scale * W]."""
    large = arrays.resize_bicubic(as_batch(picture), scale)
    return np.asarray(arrays.to_uint8(large))[0, :, :, 0]


def average(ir: Picture, vis: Picture) -> Picture:
    """The average of 2/3 infrared and 1/3 visible, rounded to uint8 [H, W]."""
    mean = IR_SHARE * ir.astype(np.float64) + (1 - IR_SHARE) * vis
    return np.round(mean).astype(np.uint8)


def stretch(picture: Picture) -> Picture:
    """Maps the minimum and maximum of a picture to 0 and 255; a flat one becomes 0.

    The exact quotient is rounded, half to even. `arrays.normalize_minmax`, which
    stretches float images before any rounding, would not do: in float32 an exact half
    such as (2 - 1) * 255 / (3 - 1) is rounded to either side, so that one level in a
    hundred (23,994 of the 2,829,056 triples of minimum, maximum and level) is off by
    one.
    """
    low, high = int(picture.min()), int(picture.max())
    levels = (picture.astype(np.float64) - low) * 255 / max(high - low, 1)
    return np.round(levels).astype(np.uint8)
