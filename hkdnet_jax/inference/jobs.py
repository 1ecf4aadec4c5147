"""Turns a user's paths into jobs, and checks them."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, OUTPUT_SUFFIXES, image_size
from hkdnet_jax.common.pair_files import Pair, Search, find_pairs
from hkdnet_jax.common.pair_list import read_pair_list
from hkdnet_jax.inference import tiles

DEFAULT_SUFFIX = ".png"


@dataclass(frozen=True)
class Job:
    """A pair of files and the file that its fused picture is written to.

    Attributes:
      pair: the infrared and the visible input.
      out: the file to write; its suffix decides the format.
    """

    pair: Pair
    out: Path


@dataclass
class Collected:
    """What is to be done.

    Attributes:
      jobs: in the order of their names, or of the list.
      problems: one sentence for each input that cannot be used.
      notes: sentences on what was recognised without being asked for.
      left_out: other jobs of the same work: those of other shards, and those that are
        done already.
    """

    jobs: list[Job]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[Job] = field(default_factory=list)


def collect_jobs(
    ir: Path,
    vis: Path,
    out: Path,
    search: Search | None = None,
    suffix: str = DEFAULT_SUFFIX,
) -> Collected:
    """Finds the pairs, and the file that each pair's picture is written to.

    Args:
      ir: an infrared picture, or a folder of them.
      vis: the visible picture, or a folder; which files form a pair is for `find_pairs`
        to say.
      out: the file to write, or for folders the folder that receives a file for each
        pair, named after the scene.
      search: see `find_pairs`.
      suffix: what follows the scene in the name of an output, see `output_suffix`.

    Raises:
      UserError: a path does not exist, the paths do not fit together, or the folders
        hold no pictures.
    """
    if not check_paths(ir, vis, out):
        return Collected([Job(Pair(ir.stem, ir, vis), out)])
    if search and search.recursive:
        _refuse_inside(out, (ir, vis))
    found = find_pairs(ir, vis, search)
    if not found.pairs and not found.problems:
        raise UserError(
            f"{ir} and {vis} hold no pictures: give folders whose files have the same "
            f"stems ({', '.join(IMAGE_SUFFIXES)}), or patterns of their names "
            "(--ir-pattern, --vis-pattern)."
        )
    jobs = [Job(pair, out / f"{pair.name}{suffix}") for pair in found.pairs]
    return Collected(jobs, found.problems, found.notes)


def listed_jobs(path: Path, out: Path, suffix: str = DEFAULT_SUFFIX) -> Collected:
    """Makes the jobs of a list of pairs, see `read_pair_list`.

    Args:
      path: the list.
      out: the folder that receives the outputs.
      suffix: what follows a name that the list leaves open, or gives without a format.

    Raises:
      UserError: the list cannot be read, or `out` is a file.
    """
    if out.is_file():
        raise UserError(f"--out {out} is a file but --list has many: give a folder.")
    listed, problems = read_pair_list(path)
    jobs = []
    for one in listed:
        name = one.out or PurePath(one.pair.name)
        if name.suffix.lower() not in OUTPUT_SUFFIXES:
            name = name.with_name(name.name + suffix)
        job = Job(one.pair, out / name)
        overwritten = _overwritten(job)
        if overwritten:
            problems.append(
                f"{job.out}, an output of {path}, is the input {overwritten}: give "
                "another name"
            )
        else:
            jobs.append(job)
    return Collected(jobs, problems)


def _overwritten(job: Job) -> Path | None:
    """The input that the output would replace, if there is one."""
    for path in (job.pair.ir, job.pair.vis):
        with contextlib.suppress(OSError):
            if job.out.samefile(path):
                return path
    return None


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
    if not folders and ir.samefile(vis):
        raise UserError(
            f"{ir} is both --ir and --vis: give the infrared and the visible picture."
        )
    is_image = out.suffix.lower() in OUTPUT_SUFFIXES
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
            f"--out {out} has none of the suffixes {', '.join(OUTPUT_SUFFIXES)}: end "
            "the name with one of them, which decides the format."
        )
    return folders


def _refuse_inside(out: Path, inputs: Sequence[Path]) -> None:
    """Raises UserError if a second run would take the outputs for inputs."""
    for folder in inputs:
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--out {out} is inside of {folder}, all of which is searched: give a "
                "folder outside of it."
            )


def output_suffix(text: str, usual: str = DEFAULT_SUFFIX) -> str:
    """Checks --suffix, such as `_fused`, `.tif` or `_fused.tif`.

    Returns:
      The text, with the usual format at its end if it names none.

    Raises:
      UserError: the text names a folder.
    """
    if os.sep in text or "/" in text or "\0" in text:
        raise UserError(f"--suffix {text!r} must be part of a file's name: drop the /.")
    named = Path(f"name{text}").suffix.lower() in OUTPUT_SUFFIXES
    return text if named else text + usual


def read_shard(text: str) -> tuple[int, int]:
    """Reads I/N: the part of the work, counted from 0, and the number of parts.

    Raises:
      UserError: the text is something else.
    """
    part, slash, parts = text.partition("/")
    if not (
        slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)
    ):
        raise UserError(
            f"--shard {text!r} must be I/N with I from 0 to N-1: write 0/4, 1/4, 2/4 "
            "and 3/4 for four shares."
        )
    return int(part), int(parts)


def share(collected: Collected, part: int, parts: int) -> Collected:
    """Every `parts`-th job, from number `part` on.

    The problems and the notes go to part 0, so that each is reported once.
    """
    jobs = collected.jobs[part::parts]
    others = [job for i, job in enumerate(collected.jobs) if i % parts != part]
    if part > 0:
        return Collected(jobs, left_out=others)
    return Collected(jobs, collected.problems, collected.notes, others)


def skip_existing(collected: Collected) -> Collected:
    """Leaves out the jobs whose output is there, and says how many."""
    jobs = [job for job in collected.jobs if not job.out.exists()]
    done = [job for job in collected.jobs if job.out.exists()]
    note = f"{len(done)} of {len(collected.jobs)} outputs are there already."
    return Collected(
        jobs,
        collected.problems,
        [*collected.notes, note],
        [*collected.left_out, *done],
    )


def tiling_note(jobs: Sequence[Job], tile: int, scale: float = 1) -> str:
    """A sentence on how --tile cut these pictures."""
    counts = []
    for job in jobs:
        with contextlib.suppress(UserError):  # a broken file, reported elsewhere
            shape = image_size(job.pair.ir)
            piece = tiles.tile_shape(shape, tile, scale)
            counts.append(len(tiles.corners(shape, piece, scale)))
    cut = [count for count in counts if count > 1]
    if not cut:
        return f"No input is larger than {tile}x{tile} pixels: none was cut into tiles."
    return (
        f"{len(cut)} of {len(jobs)} inputs were cut into {sum(cut)} tiles of at most "
        f"{tile}x{tile} pixels, which are blended where they overlap."
    )
