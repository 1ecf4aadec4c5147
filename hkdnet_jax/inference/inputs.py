"""Reads the two files of a pair as what a network takes, on ranges taken once."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from hkdnet_jax.common import levels, palettes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import Picture, is_deep, read
from hkdnet_jax.common.pair_files import Pair, check_sizes
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.options import Options
from hkdnet_jax.model_files.call import LevelOptions, gray_levels

# Files that are looked at for the range of a folder, evenly spread over it: reading all
# of ten thousand would double the time.
_FILES_LOOKED_AT = 64
_SIDES = {"ir": "infrared", "vis": "visible"}


class Note(NamedTuple):
    """What a user should know about a file."""

    path: Path
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """A pair that was read.

    Attributes:
      ir: float32 [H, W, 1] in [0, 1].
      vis: the same of the visible picture.
      ranges: the levels that became 0 and 1, of the infrared and the visible file.
      notes: what a user should know about the files.
    """

    ir: Float32[np.ndarray, "h w 1"]
    vis: Float32[np.ndarray, "h w 1"]
    ranges: tuple[levels.Range, levels.Range]
    notes: tuple[Note, ...]


def read_inputs(pair: Pair, options: Options) -> Inputs:
    """Reads a pair, and maps its levels as the options say.

    Raises:
      UserError: an image cannot be read, or the sizes differ.
    """
    pictures = [read(path, pair.page) for path in (pair.ir, pair.vis)]
    check_sizes(pair, *(picture.pixels.shape[:2] for picture in pictures))
    notes, units, ranges = [], [], []
    for side, path, picture in zip(_SIDES, (pair.ir, pair.vis), pictures, strict=True):
        gray, found = gray_levels(
            picture.pixels, picture.full, level_options(options, side)
        )
        units.append(levels.to_unit(gray, found)[..., None])
        ranges.append(found)
        notes += [Note(path, text) for text in notes_of(picture, side, options)]
    return Inputs(*units, tuple(ranges), tuple(notes))


def level_options(options: Options, side: str) -> LevelOptions:
    """How the levels of the infrared (`ir`) or visible (`vis`) side are mapped."""
    if side == "ir":
        return LevelOptions(options.ir_range, options.normalize, options.ir_palette)
    return LevelOptions(options.vis_range, options.normalize)


def notes_of(picture: Picture, side: str, options: Options) -> Iterator[str]:
    """Yields what a user should know about a picture that was read."""
    yield from picture.notes
    false_colour = side == "ir" and options.ir_palette is None and picture.is_colour
    if false_colour and palettes.is_false_colour(picture.pixels):
        yield palettes.false_colour_note("--ir-palette")


def take_ranges(jobs: Sequence[Job], options: Options) -> tuple[Options, list[str]]:
    """Takes the ranges that are left to `auto`, once for all jobs.

    Up to 64 files of each side are read for it; 8-bit files keep their levels.

    Returns:
      The options with the ranges in them, and a sentence for each that was taken.
    """
    sentences = []
    if options.normalize == "minmax":
        return options, sentences
    for side, name in _SIDES.items():
        paths = {(getattr(job.pair, side), job.pair.page) for job in jobs}
        if level_options(options, side).spec != levels.AUTO:
            continue
        if options.range_per == "image":
            found, scope = levels.AUTO, "each file by itself"
            deep = any(True for _ in _deep_grays(paths, options, side))
        else:
            found = levels.pooled(_deep_grays(paths, options, side))
            deep = found != levels.AUTO
            scope = str(found)
        options = dataclasses.replace(options, **{f"{side}_range": found})
        if deep:
            sentences.append(
                f"Levels of the {name} files: {scope} (0.1 to 99.9 %); --{side}-range "
                "sets others."
            )
    return options, sentences


def _deep_grays(
    paths: set[tuple[Path, int | None]], options: Options, side: str
) -> Iterator[np.ndarray]:
    """Yields the gray levels of some of the files that hold more than 8 bits."""
    ordered = sorted(paths, key=str)
    chosen = np.linspace(0, len(ordered) - 1, min(len(ordered), _FILES_LOOKED_AT))
    full_range = dataclasses.replace(
        level_options(options, side), spec=levels.FULL, normalize="unit"
    )
    for index in np.unique(chosen.astype(int)):
        path, page = ordered[index]
        try:
            if is_deep(path):
                picture = read(path, page)
                yield gray_levels(picture.pixels, picture.full, full_range)[0]
        except UserError:
            continue  # said when its turn comes
