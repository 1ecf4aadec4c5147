"""Reads the two files of a pair as what a network takes, on ranges taken once."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from hkdnet_jax.common import colour, levels, palettes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import Picture, is_deep, read
from hkdnet_jax.common.pair_files import Pair, check_sizes
from hkdnet_jax.inference import matching
from hkdnet_jax.inference.alignment import Alignment, NotAligned, estimate, warp
from hkdnet_jax.inference.matching import Enlarger, Plan
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
      colour: float32 [h, w, 3] in [0, 1] of the same view, whose colour the result
        gets; None for a gray result.
      alignment: the offset that was taken out of the infrared image; None for none.
    """

    ir: Float32[np.ndarray, "h w 1"]
    vis: Float32[np.ndarray, "h w 1"]
    ranges: tuple[levels.Range, levels.Range]
    notes: tuple[Note, ...]
    colour: Float32[np.ndarray, "h w 3"] | None = None
    alignment: Alignment | None = None


@dataclasses.dataclass(frozen=True)
class View:
    """How the two images of a pair become one view.

    Attributes:
      plan: how they get one size; None if they have it.
      enlarge: enlarges images for the plan.
      rig: an offset that is taken out of every pair; None to find that of each.
    """

    plan: Plan | None = None
    enlarge: Enlarger | None = None
    rig: Alignment | None = None


def read_inputs(pair: Pair, options: Options, view: View = View()) -> Inputs:
    """Reads a pair, and maps its levels and its view as the options say.

    Raises:
      UserError: an image cannot be read, the sizes differ and no plan is given, or the
        offset of the images cannot be told.
      programs.DoesNotFit: an image is too large to be enlarged.
    """
    paths = (pair.ir, pair.vis)
    return merge(*(read(path, pair.page) for path in paths), paths, options, view)


def merge(
    ir: Picture, vis: Picture, names: tuple[Path, Path], options: Options, view: View
) -> Inputs:
    """Maps the levels and the views of two pictures; see `read_inputs`.

    Args:
      ir: the infrared picture.
      vis: the visible picture.
      names: what they are called in sentences.
      options: see `Options`.
      view: see `View`.
    """
    notes, units, ranges = [], [], []
    for side, path, picture in zip(_SIDES, names, (ir, vis), strict=True):
        gray, found = gray_levels(
            picture.pixels, picture.full, level_options(options, side)
        )
        units.append(levels.to_unit(gray, found))
        ranges.append(found)
        notes += [Note(path, text) for text in notes_of(picture, side, options)]
    rgb = colours(vis.pixels, ranges[1], options.color)
    plan = view.plan
    if plan is None:
        check_sizes(Pair("", *names), *(unit.shape for unit in units))
    else:
        units[1] = matching.crop(units[1], plan.crop)
        rgb = None if rgb is None else matching.crop(rgb, plan.crop)
        sizes = (ir.pixels.shape[:2], vis.pixels.shape[:2])
        notes.append(Note(names[0], matching.plan_note(plan, *sizes)))
        units = [
            view.enlarge(unit, scale, plan.size)
            for unit, scale in zip(units, plan.scales, strict=True)
        ]
    alignment = None
    if options.align is not None:
        alignment = view.rig or find_offset(*units, names, options.align)
        warped, covered = warp(units[0], alignment)
        units[0] = np.where(covered, warped, units[1])
        if view.rig is None:
            notes.append(Note(names[0], offset_note(alignment, covered)))
    ir_unit, vis_unit = (unit[..., None] for unit in units)
    return Inputs(ir_unit, vis_unit, tuple(ranges), tuple(notes), rgb, alignment)


def colours(pixels: np.ndarray, found: levels.Range, color: str) -> np.ndarray | None:
    """The colours of a visible image in [0, 1], or None for a gray result.

    Args:
      pixels: [H, W] or [H, W, 3].
      found: the levels that become 0 and 1.
      color: see `Options`.
    """
    if color == "gray" or (color == "auto" and not colour.is_coloured(pixels)):
        return None
    unit = levels.to_unit(pixels, found)
    return unit if unit.ndim == 3 else np.dstack([unit] * 3)


def find_offset(
    ir: np.ndarray, vis: np.ndarray, names: tuple[Path, Path], motion: str
) -> Alignment:
    """Finds the offset of a pair; see `alignment.estimate`.

    Raises:
      UserError: it cannot be told.
    """
    try:
        return estimate(ir, vis, motion)
    except NotAligned as error:
        raise UserError(
            f"{names[0]} and {names[1]} cannot be aligned, because {error}: register "
            "them by hand, or leave out --align."
        ) from error


def offset_note(alignment: Alignment, covered: np.ndarray) -> str:
    """A sentence on an offset that was taken out."""
    share = 1 - covered.mean()
    filled = (
        f" {share:.1%} of the view, which the infrared camera did not see, comes from "
        "the visible picture."
        if share
        else ""
    )
    return f"It was off by {alignment}.{filled}"


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


def take_ranges(pairs: Sequence[Pair], options: Options) -> tuple[Options, list[str]]:
    """Takes the ranges that are left to `auto`, once for all pairs.

    Up to 64 files of each side are read for it; 8-bit files keep their levels.

    Returns:
      The options with the ranges in them, and a sentence for each that was taken.
    """
    sentences = []
    if options.normalize == "minmax":
        return options, sentences
    for side, name in _SIDES.items():
        paths = {(getattr(pair, side), pair.page) for pair in pairs}
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
