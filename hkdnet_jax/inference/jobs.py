"""Turns a user's paths and flags into jobs and options, and checks them."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, image_size
from hkdnet_jax.common.pair_files import Pair, match_folders
from hkdnet_jax.inference import tiles
from hkdnet_jax.inference.folder import Job, Options
from hkdnet_jax.runtime import memory


def collect_jobs(ir: Path, vis: Path, out: Path) -> tuple[list[Job], list[str]]:
    """Finds the pairs, and the file that each pair's picture is written to.

    Args:
      ir: an infrared picture, or a folder of them.
      vis: the visible picture, or a folder; files with the same stem form a pair.
      out: the file to write, or for folders the folder that receives a STEM.png for
        each pair.

    Returns:
      The jobs, and a sentence for each file that has no partner.

    Raises:
      UserError: a path does not exist, the paths do not fit together, or the folders
        hold no pictures.
    """
    if not check_paths(ir, vis, out):
        return [Job(Pair(ir.stem, ir, vis), out)], []
    pairs, problems = match_folders(ir, vis)
    if not pairs and not problems:
        raise UserError(
            f"{ir} and {vis} hold no pictures: give folders whose files have the same "
            f"stems ({', '.join(IMAGE_SUFFIXES)})."
        )
    return [Job(pair, out / f"{pair.name}.png") for pair in pairs], problems


def check_paths(ir: Path, vis: Path, out: Path) -> bool:
    """Whether the inputs are folders.

    Raises:
      UserError: an input does not exist, or the three paths do not fit together.
    """
    for flag, path in (("--ir", ir), ("--vis", vis)):
        if not path.exists():
            raise UserError(f"{flag} {path} does not exist.")
        if out.exists() and out.samefile(path):
            raise UserError(
                f"--out {out} is also the input {flag}, which would be overwritten: "
                "give another name."
            )
    folders = ir.is_dir()
    if folders != vis.is_dir():
        file, folder = (vis, ir) if folders else (ir, vis)
        raise UserError(
            f"{file} is a file but {folder} is a folder: give two files or two folders."
        )
    is_image = out.suffix.lower() in IMAGE_SUFFIXES
    if folders and (out.is_file() or (is_image and not out.exists())):
        raise UserError(
            f"--out {out} is a file but the inputs are folders: give a folder."
        )
    if not folders and out.is_dir():
        raise UserError(
            f"--out {out} is a folder but the inputs are files: give a file such as "
            f"{out / ir.stem}.png."
        )
    if not folders and not is_image:
        raise UserError(
            f"--out {out} has none of the suffixes {', '.join(IMAGE_SUFFIXES)}: end "
            "the name with one of them, which decides the format."
        )
    return folders


def read_options(
    normalize: str, stretch: bool, tile: int | None, max_memory: str | None
) -> Options:
    """Checks the options that a user gives.

    Args:
      normalize: see `Options`.
      stretch: see `Options`.
      tile: see `Options`.
      max_memory: an amount such as 4GB; None for the memory that is free.

    Raises:
      UserError: the tiles are too small, or `max_memory` is not an amount of memory.
    """
    if tile is not None and tile < tiles.MIN_TILE:
        raise UserError(
            f"--tile {tile} is too small: give at least {tiles.MIN_TILE} pixels."
        )
    limit = None
    if max_memory is not None:
        try:
            limit = memory.parse_bytes(max_memory)
        except ValueError as error:
            raise UserError(f"--max-memory: {error}.") from error
    return Options(normalize, stretch, tile, limit)


def describe_tiling(jobs: Sequence[Job], tile: int) -> str:
    """A sentence on how --tile cut these pictures."""
    counts = []
    for job in jobs:
        with contextlib.suppress(UserError):  # a broken file, reported elsewhere
            shape = image_size(job.pair.ir)
            counts.append(len(tiles.corners(shape, tiles.tile_shape(shape, tile))))
    cut = [count for count in counts if count > 1]
    if not cut:
        return f"No input is larger than {tile}x{tile} pixels: none was cut into tiles."
    return (
        f"{len(cut)} of {len(jobs)} inputs were cut into {sum(cut)} tiles of at most "
        f"{tile}x{tile} pixels, which are blended where they overlap."
    )
