"""The flags that say which pairs are fused and where the pictures go."""

import argparse
from pathlib import Path

from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, check_depth
from hkdnet_jax.common.pair_arguments import add_search_arguments, read_search
from hkdnet_jax.inference import jobs, pages
from hkdnet_jax.inference.jobs import Collected
from hkdnet_jax.inference.video_arguments import add_video_arguments, source


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `read_jobs` reads."""
    add = parser.add_argument
    suffixes = " ".join(IMAGE_SUFFIXES)
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        add(
            f"--{name}",
            type=source,
            metavar="FILE_OR_DIR",
            help=f"{what} picture ({suffixes}), or a folder of them: files with the "
            "same stem in both folders form a pair, unless patterns say otherwise; or "
            "a video, a camera's index or an address",
        )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE_OR_DIR",
        help="picture to write, in the format that its suffix names; for folders and "
        "lists, the folder that receives a picture for each pair, named after the "
        "scene; existing files are replaced; for videos, a video or a folder of frames",
    )
    add_search_arguments(parser)
    add(
        "--suffix",
        metavar="TEXT",
        help="for folders: what follows the scene in an output's name, such as _fused "
        "or .tif (default: .png, or .tiff for --output-depth float)",
    )
    add(
        "--pages",
        choices=pages.PAGES,
        default=pages.PAGES[0],
        help="of files with several pages, such as TIFF stacks and animated PNG, fuse "
        "the first, or all: page 3 of 12 goes to NAME_03 (default: first)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out pairs whose output is there: continues a job that was stopped",
    )
    existing.add_argument(
        "--overwrite",
        action="store_true",
        help="replace outputs that are there (the default)",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write a line of JSON for each pair: its files, sizes, ranges, alignment, "
        "seconds and error; with --skip-existing, lines are added to the file",
    )
    add(
        "--shard",
        metavar="I/N",
        help="do only every N-th pair, from number I on, which counts from 0: for N "
        "processes that share the work",
    )

    add_video_arguments(parser)


def read_jobs(args: argparse.Namespace, depth: str = "8") -> Collected:
    """Finds the pairs that a user names, as `add_job_arguments` defines the flags.

    Args:
      args: the flags.
      depth: of the pictures to write, see `image_files.check_depth`.

    Raises:
      UserError: the paths or flags do not fit together, or hold no pairs.
    """
    usual = ".tiff" if depth == "float" else jobs.DEFAULT_SUFFIX
    suffix = jobs.output_suffix(args.suffix or usual, usual)
    search = read_search(args)
    if args.list is not None:
        collected = jobs.listed_jobs(args.list, args.out, suffix)
    else:
        collected = jobs.collect_jobs(args.ir, args.vis, args.out, search, suffix)
    if args.pages == "all":
        collected = pages.expand(collected)
    for job in collected.jobs:
        check_depth(job.out, depth)
    if args.shard is not None:
        collected = jobs.share(collected, *jobs.read_shard(args.shard))
    if args.skip_existing:
        collected = jobs.skip_existing(collected)
    return collected
