"""How pictures are fused: the options, their flags, and the check of what is given.

Every flag of `fuse` that changes pictures is defined here; those that find pairs are in
`common.pair_arguments`.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import jax

from hkdnet_jax.common import levels, palettes
from hkdnet_jax.common.colour import COLOR
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import DEPTHS
from hkdnet_jax.inference import tiles
from hkdnet_jax.inference.alignment import MOTIONS
from hkdnet_jax.model_files.call import NORMALIZE
from hkdnet_jax.runtime import memory

RANGE_PER = ("folder", "image")


@dataclass(frozen=True)
class Options:
    """How pictures are fused.

    Attributes:
      normalize: see `fuse_pair`.
      stretch: see `fuse_pair`.
      tile: longest side, in pixels, of the tiles that larger inputs are cut into; None
        if images are not cut.
      max_memory: limit in bytes; see `programs.budget`.
      ir_range: the infrared levels that become black and white, see `levels.resolve`.
      vis_range: the same of the visible files.
      range_per: whether `auto` takes one range for the `folder`, or one per `image`.
      ir_palette: palette of false-colour infrared files, see `palettes.load`; None if
        they are in none.
      depth: of the pictures that are written, one of `image_files.DEPTHS`.
      color: `auto` for the colour of coloured visible files, `gray` for none, `rgb` for
        colour files even of gray ones.
      match: whether inputs of two sizes are brought to one, see `matching`.
      align: motion of the infrared image that is taken out, see `alignment.align`; None
        if the pairs are registered.
      align_once: whether one offset is taken for all pairs.
      devices: number of devices that work; None for all.
      compare: whether the inputs and the result are also drawn side by side.
    """

    normalize: str = "unit"
    stretch: bool = False
    tile: int | None = None
    max_memory: int | None = None
    ir_range: levels.Spec = levels.AUTO
    vis_range: levels.Spec = levels.AUTO
    range_per: str = "folder"
    ir_palette: str | None = None
    depth: str = "8"
    color: str = COLOR[0]
    match: bool = False
    align: str | None = None
    align_once: bool = False
    devices: int | None = None
    compare: bool = False


def add_range_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `read_ranges` reads."""
    add = parser.add_argument
    for side, what in (("ir", "infrared"), ("vis", "visible")):
        add(
            f"--{side}-range",
            default=levels.AUTO,
            metavar="auto|full|LOW:HIGH",
            help=f"{what} levels that become black and white: auto keeps 8-bit files "
            "as they are and takes 0.1 to 99.9 %% of the levels of deeper ones; full "
            "is all that the file can hold, 0:1 for floating point (default: auto)",
        )
    add(
        "--range-per",
        choices=RANGE_PER,
        default=RANGE_PER[0],
        help="what auto takes one range for: the folder, so that levels stay "
        "comparable and videos steady, or each image (default: folder)",
    )
    add(
        "--ir-palette",
        metavar="|".join((*palettes.NAMES, "FILE")),
        help="turn infrared pictures in false colours back into levels; FILE is a "
        "picture of the colour bar, or lines of RED,GREEN,BLUE from cold to hot",
    )


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `read_options` reads."""
    add = parser.add_argument
    add(
        "--normalize",
        choices=NORMALIZE,
        default=NORMALIZE[0],
        help="unit keeps absolute levels; minmax stretches each input by its own "
        "minimum and maximum (default: unit)",
    )
    add_range_arguments(parser)
    add(
        "--color",
        choices=COLOR,
        default=COLOR[0],
        help="auto gives the result the colour of the visible picture, where that has "
        "any; gray never does; rgb writes colour files in any case (default: auto)",
    )
    add(
        "--match",
        action="store_true",
        help="accept pictures of two sizes: the smaller is enlarged to the size of the "
        "larger, or with --scale to that many times its own, and the teacher fuses",
    )
    add(
        "--align",
        choices=MOTIONS,
        help="find this motion between the pictures and take it out of the infrared "
        "one; pairs whose motion cannot be told are refused",
    )
    add(
        "--align-once",
        action="store_true",
        help="with --align: one offset for all pairs, for cameras on a fixed rig",
    )
    add(
        "--compare",
        action="store_true",
        help="also write NAME_compare.png, both inputs beside the result",
    )
    add(
        "--devices",
        type=int,
        metavar="N",
        help="work on the first N devices alone (default: all)",
    )
    add(
        "--stretch",
        action="store_true",
        help="map each output's minimum and maximum to black and white",
    )
    add(
        "--output-depth",
        choices=DEPTHS,
        default=DEPTHS[0],
        help="bits of a level in the output; float is 32-bit floating point in [0, 1], "
        "for .tiff and .npy (default: 8)",
    )
    add(
        "--max-memory",
        metavar="SIZE",
        help="limit such as 4GB or 800MB, for the process on a CPU, otherwise for each "
        "device; pictures that would need more are refused before the work starts "
        "(default: the memory that is free)",
    )
    add(
        "--tile",
        type=int,
        metavar="N",
        help="cut pictures larger than NxN pixels into overlapping tiles that are "
        "fused one by one and blended; use it only for pictures that do not fit into "
        "memory, because the network then sees no more than one tile at a time",
    )


def read_options(args: argparse.Namespace) -> Options:
    """Checks the options that a user gives, as `add_option_arguments` defines them.

    Raises:
      UserError: the tiles are too small, --max-memory is not an amount of memory, a
        range or palette cannot be used, or there are fewer devices.
    """
    if args.tile is not None and args.tile < tiles.MIN_TILE:
        raise UserError(
            f"--tile {args.tile} is too small: give at least {tiles.MIN_TILE} pixels."
        )
    limit = None
    if args.max_memory is not None:
        try:
            limit = memory.parse_bytes(args.max_memory)
        except ValueError as error:
            raise UserError(f"--max-memory: {error}.") from error
    for side in ("ir", "vis"):
        if args.normalize == "minmax" and getattr(args, f"{side}_range") != levels.AUTO:
            raise UserError(
                f"--{side}-range {getattr(args, f'{side}_range')} and --normalize "
                "minmax contradict each other: drop one."
            )
    if args.align_once and args.align is None:
        raise UserError("--align-once needs a motion: add --align affine.")
    if args.devices is not None:
        _check_devices(args.devices)
    return Options(
        **read_ranges(args),
        normalize=args.normalize,
        stretch=args.stretch,
        tile=args.tile,
        max_memory=limit,
        depth=args.output_depth,
        color=args.color,
        match=args.match,
        align=args.align,
        align_once=args.align_once,
        devices=args.devices,
        compare=args.compare,
    )


def read_ranges(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Options` that say what the levels of files mean.

    Raises:
      UserError: a range or the palette cannot be used.
    """
    if args.ir_palette is not None:
        palettes.load(args.ir_palette)  # refused before the work, not in it
    ranges = {f"{side}_range": _read_range(side, args) for side in ("ir", "vis")}
    return ranges | {"range_per": args.range_per, "ir_palette": args.ir_palette}


def _read_range(side: str, args: argparse.Namespace) -> levels.Spec:
    try:
        return levels.parse(getattr(args, f"{side}_range"))
    except ValueError as error:
        raise UserError(f"--{side}-range: {error}.") from error


def _check_devices(number: int) -> None:
    # Devices are looked for only if asked: where there is none, that has its own error.
    found = jax.local_device_count()
    if not 1 <= number <= found:
        raise UserError(
            f"--devices {number} must be from 1 to {found}, which are all here."
        )
