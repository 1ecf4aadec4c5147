"""How pictures are fused: the options, their flags, and the check of what is given.

Every flag of `fuse` that changes pictures is defined here; those that find pairs are in
`common.pair_arguments`.
"""

import argparse
from dataclasses import dataclass

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import tiles
from hkdnet_jax.inference.pair import NORMALIZE
from hkdnet_jax.runtime import memory


@dataclass(frozen=True)
class Options:
    """How pictures are fused.

    Attributes:
      normalize: see `fuse_pair`.
      stretch: see `fuse_pair`.
      tile: longest side, in pixels, of the tiles that larger inputs are cut into; None
        if images are not cut.
      max_memory: limit in bytes; see `programs.budget`.
    """

    normalize: str = "unit"
    stretch: bool = False
    tile: int | None = None
    max_memory: int | None = None


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
    add(
        "--stretch",
        action="store_true",
        help="map each output's minimum and maximum to 0 and 255",
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
      UserError: the tiles are too small, or --max-memory is not an amount of memory.
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
    return Options(args.normalize, args.stretch, args.tile, limit)
