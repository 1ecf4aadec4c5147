"""False colours: which thermal pictures are drawn in them, and back to levels.

A camera's palette is a line through RGB from cold to hot.  The luma of such a picture
is no temperature: in a rainbow, yellow is brighter than the hotter red.
"""

import functools
from pathlib import Path

import numpy as np

from hkdnet_jax.common import image_files
from hkdnet_jax.common.errors import UserError

# Colours at equal distances, from cold to hot; drawn after what cameras show, which
# differs a little between makes.  A file with a camera's own palette is exact.
_STOPS = {
    "ironbow": (
        (0, 0, 10),
        (35, 0, 125),
        (145, 0, 156),
        (200, 30, 95),
        (230, 70, 22),
        (247, 130, 5),
        (254, 198, 0),
        (255, 235, 110),
        (255, 255, 255),
    ),
    "rainbow": (
        (0, 0, 128),
        (0, 0, 255),
        (0, 128, 255),
        (0, 255, 255),
        (128, 255, 128),
        (255, 255, 0),
        (255, 128, 0),
        (255, 0, 0),
        (128, 0, 0),
    ),
}
NAMES = tuple(_STOPS)
_COLOURS = 256  # of a palette, after interpolation
_TABLE_BITS = 5  # of each channel, in the table of nearest colours
# What false colours look like: this mean distance between the largest and the smallest
# channel; few cells of 16x16x16 levels that hold most pixels; and several hues.  Of 312
# visible pictures of LLVIP, RoadScene, M3SVD and VIFB, three look like that.
_LEAST_CHROMA = 60
_CELL_BITS = 4  # of each channel
_MOST_CELLS = 120
_MOST_PIXELS = 0.8
_LEAST_HUES = 2  # of six, each with this share of the pixels
_HUE_SHARE = 0.02
_COLOURFUL = 40  # the chroma of a pixel that has a hue
_PIXELS_LOOKED_AT = 2**16


def invert(rgb: np.ndarray, palette: str) -> np.ndarray:
    """Looks up where on a palette each colour lies.

    Args:
      rgb: [H, W, 3] uint8, or uint16, of which the high byte counts.
      palette: see `load`.

    Returns:
      [H, W] uint8: 0 for the first colour of the palette, 255 for the last.

    Raises:
      UserError: the palette cannot be used, or the picture has another depth.
    """
    if rgb.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"A picture of {rgb.dtype} levels has no palette: drop --ir-palette."
        )
    colours = rgb if rgb.dtype == np.uint8 else (rgb >> 8).astype(np.uint8)
    shift = 8 - _TABLE_BITS
    red, green, blue = (colours[..., i].astype(np.intp) >> shift for i in range(3))
    coarse = _table(palette)[(red << _TABLE_BITS | green) << _TABLE_BITS | blue]
    return _refine(colours, coarse, load(palette))


def _refine(colours: np.ndarray, coarse: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Moves each position to the nearest colour among its neighbours on the palette."""
    best, least = coarse, np.full(coarse.shape, np.inf, np.float32)
    wanted = colours.astype(np.float32)
    for step in range(-8, 9):
        index = (coarse.astype(np.int16) + step).clip(0, len(palette) - 1)
        distance = ((wanted - palette[index]) ** 2).sum(axis=-1)
        best = np.where(distance < least, index, best)
        least = np.minimum(distance, least)
    return best.astype(np.uint8)


@functools.lru_cache(4)
def _table(palette: str) -> np.ndarray:
    """For each cell of colours the position of the nearest colour on the palette."""
    colours = load(palette)
    side = (np.arange(2**_TABLE_BITS) + 0.5) * 2 ** (8 - _TABLE_BITS)
    cells = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1)
    cells = cells.reshape(-1, 3).astype(np.float32)
    # |a - b|^2 without |a|^2, which does not change which b is nearest.
    distances = (colours**2).sum(axis=1) - 2 * cells @ colours.T
    return distances.argmin(axis=1).astype(np.uint8)


@functools.lru_cache(4)
def load(palette: str) -> np.ndarray:
    """Returns a palette as float32 [256, 3], from cold to hot.

    Args:
      palette: one of NAMES; or a file: a picture of the colour bar alone, whose left or
        lower end is cold, or lines of `RED,GREEN,BLUE` from 0 to 255, cold first.

    Raises:
      UserError: the file cannot be used.
    """
    stops = np.array(_STOPS[palette] if palette in _STOPS else _read(Path(palette)))
    places = np.linspace(0, len(stops) - 1, _COLOURS)
    channels = (np.interp(places, np.arange(len(stops)), x) for x in stops.T)
    return np.stack(list(channels), axis=1).astype(np.float32)


def _read(path: Path) -> np.ndarray:
    if path.suffix.lower() in image_files.IMAGE_SUFFIXES:
        pixels = image_files.read(path).pixels
        if pixels.ndim == 3 and pixels.dtype == np.uint8:
            tall = pixels.shape[0] > pixels.shape[1]
            return (
                np.median(pixels, axis=1)[::-1] if tall else np.median(pixels, axis=0)
            )
        raise UserError(f"{path} is no colour picture of 8 bits: give a colour bar.")
    try:
        colours = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a palette ({error}): give {', '.join(NAMES)}, "
            "the picture of a colour bar, or lines of RED,GREEN,BLUE."
        ) from error
    if (
        colours.shape[1:] != (3,)
        or len(colours) < 2
        or not ((colours >= 0) & (colours <= 255)).all()
    ):
        raise UserError(
            f"{path} is no palette: give at least two lines of RED,GREEN,BLUE, each "
            "from 0 to 255."
        )
    return colours


def is_false_colour(rgb: np.ndarray) -> bool:
    """Whether a picture looks as if it were drawn in a palette of several hues.

    Args:
      rgb: [H, W, 3] of any dtype; only uint8 can be such a picture.
    """
    if rgb.dtype != np.uint8:
        return False
    step = max(1, int(np.sqrt(rgb.shape[0] * rgb.shape[1] / _PIXELS_LOOKED_AT)))
    pixels = rgb[::step, ::step].reshape(-1, 3).astype(np.int32)
    largest, smallest = pixels.max(axis=1), pixels.min(axis=1)
    chroma = largest - smallest
    if chroma.mean() < _LEAST_CHROMA:
        return False
    red, green, blue = (pixels >> (8 - _CELL_BITS)).T
    counts = np.bincount((red << _CELL_BITS | green) << _CELL_BITS | blue)
    share = np.cumsum(np.sort(counts)[::-1]) / len(pixels)
    if np.searchsorted(share, _MOST_PIXELS) + 1 > _MOST_CELLS:
        return False
    # Which channel is largest and which smallest tells the sixth of the hue circle.
    hue = (pixels.argmax(axis=1) * 3 + pixels.argmin(axis=1))[chroma > _COLOURFUL]
    common = np.bincount(hue, minlength=9) > _HUE_SHARE * len(pixels)
    return int(common.sum()) >= _LEAST_HUES


def false_colour_note(option: str) -> str:
    """The sentence on a picture for which `is_false_colour` holds.

    Args:
      option: the name of the flag or argument that takes a palette.
    """
    return (
        "It looks drawn in false colours, whose brightness is no temperature: give "
        f"{option} {', '.join(NAMES)} or a file."
    )
