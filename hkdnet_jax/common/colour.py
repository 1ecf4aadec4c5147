"""The colour of the visible image on a fused luminance, full-range BT.601.

A colour is its luma and the differences R - Y, G - Y and B - Y; those are Cr and Cb but
for constant factors, and their luma is 0.
"""

import numpy as np
from PIL import Image

from hkdnet_jax.common.levels import LUMA

COLOR = ("auto", "gray", "rgb")


def is_coloured(pixels: np.ndarray) -> bool:
    """Whether an image [H, W] or [H, W, 3] holds any pixel that is not gray."""
    return pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())


def attach(luma: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Gives a fused luminance the colour of the visible image.

    The colour differences are enlarged by a Lanczos filter. Where a channel would leave
    [0, 1], all three differences are made smaller by one factor, so that neither the
    luma nor the hue changes.

    Args:
      luma: float32 [H, W]; values outside [0, 1] are clipped.
      visible: float32 [h, w, 3] in [0, 1], of any size with the same view.

    Returns:
      float32 [H, W, 3] in [0, 1], whose luma is that of `luma` but for rounding.
    """
    weights = np.asarray(LUMA, np.float32)
    luma = np.clip(luma, 0, 1)
    red, blue = (
        _enlarge(visible[..., i] - visible @ weights, luma.shape) for i in (0, 2)
    )
    green = -(weights[0] * red + weights[2] * blue) / weights[1]
    difference = np.stack([red, green, blue], axis=-1)
    highest, lowest = difference.max(axis=-1), -difference.min(axis=-1)
    # How much of the differences fits between black and white, at most all of it.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum((1 - luma) / highest, luma / lowest)
    share = np.where((highest > 1 - luma) | (lowest > luma), share, np.float32(1))
    return np.clip(luma[..., None] + share[..., None] * difference, 0, 1)


def _enlarge(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if plane.shape == shape:
        return plane
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.LANCZOS))
