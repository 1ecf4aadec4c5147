"""Few array shapes that hold images of many sizes, so that few programs serve them."""

from collections.abc import Mapping

import numpy as np

Size = tuple[int, int]  # height, width

# A folder of more sizes than this is padded to this many shapes.
MOST_SHAPES = 12
# Merging shapes takes time that is cubic in their number: beyond this many, sides are
# rounded up first.
_MOST_MERGED = 512


def cover(counts: Mapping[Size, int], most: int = MOST_SHAPES) -> dict[Size, Size]:
    """Chooses shapes that images of these sizes are padded to, in few pixels.

    If there are at most `most` sizes, each is its own shape.  Otherwise the two shapes
    whose union adds the fewest pixels to all images are merged, again and again; so a
    size of many images is likely to stay as it is.

    Args:
      counts: number of images by their (height, width).
      most: largest number of shapes.

    Returns:
      For each size a shape that is at least as high and as wide.
    """
    steps = 64
    shape_of = {size: size for size in counts}
    while len(counts) > most and len(set(shape_of.values())) > _MOST_MERGED:
        shape_of = {size: _rounded(size, steps) for size in counts}
        steps //= 2
    shapes = sorted(set(shape_of.values()))
    sides = np.array(shapes, np.int64).reshape(-1, 2)
    images = np.zeros(len(shapes), np.int64)
    for size, count in counts.items():
        images[shapes.index(shape_of[size])] += count
    merged_into = np.arange(len(shapes))
    alive = list(range(len(shapes)))
    while len(alive) > most:
        first, second = _cheapest(sides[alive], images[alive])
        kept, gone = alive[first], alive.pop(second)
        sides[kept] = np.maximum(sides[kept], sides[gone])
        images[kept] += images[gone]
        merged_into[merged_into == gone] = kept
    found = {
        shape: (int(sides[number, 0]), int(sides[number, 1]))
        for shape, number in zip(shapes, merged_into, strict=True)
    }
    return {size: found[shape] for size, shape in shape_of.items()}


def _rounded(size: Size, steps: int) -> Size:
    """Rounds sides up to one of `steps` lengths between a power of two and the next."""
    units = (max(1, (1 << (side - 1).bit_length()) // (2 * steps)) for side in size)
    height, width = (
        -(-side // unit) * unit for side, unit in zip(size, units, strict=True)
    )
    return height, width


def _cheapest(sides: np.ndarray, images: np.ndarray) -> tuple[int, int]:
    """The two shapes whose union adds the fewest pixels, the smaller index first."""
    pixels = sides.prod(axis=1) * images
    union = np.maximum(sides[:, None], sides).prod(axis=2)
    added = union * (images[:, None] + images) - pixels[:, None] - pixels
    above = np.triu_indices(len(sides), 1)
    best = np.argmin(added[above])
    return int(above[0][best]), int(above[1][best])
