"""Cuts a large image into overlapping tiles, and blends the fused tiles.

This is only for images that fit into no device's memory: the attention and the channel
gates see one tile instead of the full image, so the result differs a little from that
of the full image.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.ops.places import UNIT, enlarged, in_units

MIN_TILE = 64  # pixels per side; most of a smaller tile would be overlap
_OVERLAP = 4  # neighbours share at least a quarter of their side
# The share of the overlap, along a tile's own edge, that is not used at all, because
# the network's output beside an edge depends on its padding.
_MARGIN = 1 / 8
Corner = tuple[int, int]  # top, left


def tile_shape(
    shape: tuple[int, int], tile: int | None, scale: float = 1
) -> tuple[int, int]:
    """(height, width) of the tiles of an image; the image's own if one tile is enough.

    Args:
      shape: (height, width) of the image, in pixels.
      tile: longest side of a tile, in pixels; None if the image is not cut.
      scale: factor by which the tiles are enlarged; one that is not whole, such as 2.5,
        makes them up to `step(scale)` pixels shorter.
    """
    if tile is None:
        return shape
    # The last tile begins at a multiple of the step too.
    each = step(scale)
    height, width = (
        side if side <= tile else tile - (tile - side) % each for side in shape
    )
    return height, width


def step(scale: float) -> int:
    """The fewest pixels that become whole ones when they are enlarged; 1 or more."""
    return UNIT // math.gcd(UNIT, in_units(scale))


def check(tile: int | None, scale: float) -> None:
    """Raises UserError if tiles of this size cannot be enlarged by this factor."""
    if tile is not None and 3 * step(scale) > tile:
        raise UserError(
            f"Tiles of {tile} pixels cannot be put together at scale {scale:g}, at "
            f"which they begin on whole pixels only every {step(scale)}: give a scale "
            f"in steps of 0.05, such as {round(scale * 20) / 20:g}."
        )


def corners(
    shape: tuple[int, int], tile: tuple[int, int], scale: float = 1
) -> list[Corner]:
    """(top, left) corners of the tiles, which are evenly spaced and of one size.

    Args:
      shape: (height, width) of the image, in pixels.
      tile: (height, width) of a tile, in pixels; at most the image's.
      scale: factor by which the tiles are enlarged, at which corners are whole pixels.
    """
    each = step(scale)
    tops, lefts = (_starts(*sides, each) for sides in zip(shape, tile, strict=True))
    return list(itertools.product(tops, lefts))


def _starts(length: int, tile: int, each: int) -> list[int]:
    if length == tile:
        return [0]
    # In steps, which `tile_shape` makes exact.
    last, farthest = (length - tile) // each, (tile - tile // _OVERLAP) // each
    count = 1 + math.ceil(last / farthest)
    return [each * round(i * last / (count - 1)) for i in range(count)]


def cut(
    image: np.ndarray, places: Sequence[Corner], tile: tuple[int, int]
) -> np.ndarray:
    """Cuts the tiles at `places` out of [H, W, ...]; returns [tiles, *tile, ...]."""
    height, width = tile
    return np.stack(
        [image[top : top + height, left : left + width] for top, left in places]
    )


def blend(
    tiles: np.ndarray, places: Sequence[Corner], shape: tuple[int, int], scale: float
) -> np.ndarray:
    """Reassembles tiles; where they overlap, one fades into the other.

    Args:
      tiles: float32 [tiles, scale * h, scale * w], from tiles of h x w pixels.
      places: corners of the tiles before they were scaled.
      shape: (height, width) of the image before it was scaled.
      scale: pixels of a tile per pixel of the image, along each side.

    Returns:
      float32 [scale * H, scale * W].
    """
    height, width = tiles.shape[1:]
    full_size = enlarged(shape[0], scale), enlarged(shape[1], scale)
    total = np.zeros(full_size, np.float32)
    weights = np.zeros(full_size, np.float32)
    for tile, (top, left) in zip(tiles, places, strict=True):
        top, left = enlarged(top, scale), enlarged(left, scale)
        rows = _fade(top, height, full_size[0])
        weight = rows[:, None] * _fade(left, width, full_size[1])[None, :]
        window = np.s_[top : top + height, left : left + width]
        total[window] += weight * tile
        weights[window] += weight
    return total / weights


def _fade(start: int, length: int, full_length: int) -> np.ndarray:
    """Weights along a tile's side: 1, but falling to 0 towards a neighbour."""
    overlap = length // _OVERLAP
    margin = overlap * _MARGIN
    distance = np.arange(length, dtype=np.float32) + 0.5  # from the tile's edge
    ramp = np.clip((distance - margin) / (overlap - 2 * margin), 0, 1)
    smooth = ramp * ramp * (3 - 2 * ramp)
    weights = np.ones(length, np.float32)
    if start > 0:
        weights *= smooth
    if start + length < full_length:
        weights *= smooth[::-1]
    return weights
