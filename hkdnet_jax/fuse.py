"""Fuses infrared/visible pictures with a trained model: one pair, or two folders.

    python -m hkdnet_jax.fuse --ir ir.png --vis vis.png --out fused.png --scale 2
    python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused --model runs/x2

`hkdnet_jax.fuse_pair` does the same for arrays.  This module imports neither TensorFlow
nor orbax.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common.atomic_files import make_writable
from hkdnet_jax.common.errors import exit_code
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, image_size
from hkdnet_jax.inference.folder import fuse_files
from hkdnet_jax.inference.jobs import collect_jobs, describe_tiling, read_options
from hkdnet_jax.inference.pair import NORMALIZE
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.pretrained.arguments import add_model_arguments, load_model
from hkdnet_jax.runtime import compile_cache
from hkdnet_jax.runtime.precision import DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if every pair was fused."""
    args = _parser().parse_args(argv)
    compile_cache.enable()
    return exit_code(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    suffixes = " ".join(IMAGE_SUFFIXES)
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.fuse",
        description="Fuse registered infrared and visible pictures into one gray "
        "picture of\n1, 2, 3 or 4 times their size. Each side of a picture needs at "
        f"least {MIN_SIDE} pixels.",
        epilog="example:\n"
        "  python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused --scale 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        add(
            f"--{name}",
            type=Path,
            required=True,
            metavar="FILE_OR_DIR",
            help=f"{what} picture ({suffixes}; 8 or 16 bit, gray or colour; colour "
            "is read as its luma), or a folder of them: files with the same stem in "
            "both folders form a pair",
        )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE_OR_DIR",
        help="8-bit gray picture to write, in the format that its suffix names; for "
        "folders, the folder that receives a STEM.png for each pair; existing files "
        "are replaced",
    )
    add_model_arguments(parser)
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
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="bfloat16 is meant for a student on a GPU or TPU, where it is faster; "
        "pictures differ by about one level of 255; a CPU gains nothing from it "
        "(default: float32)",
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
    return parser


def _run(args: argparse.Namespace) -> int:
    jobs, problems = collect_jobs(args.ir, args.vis, args.out)
    options = read_options(args.normalize, args.stretch, args.tile, args.max_memory)
    model = load_model(args.model, args.scale).astype(args.dtype)
    folders = args.ir.is_dir()
    make_writable(args.out if folders else args.out.parent)
    failures = fuse_files(model, jobs, options)
    if folders:
        print(f"Wrote {len(jobs) - len(failures)} fused pictures to {args.out}.")
    elif not failures:
        height, width = (model.scale * side for side in image_size(args.ir))
        print(f"Wrote {args.out} ({width}x{height}).")
    if args.tile is not None:
        print(describe_tiling(jobs, args.tile))
    for sentence in problems + failures:
        print(f"error: {sentence.rstrip('.')}.", file=sys.stderr)
    return 1 if problems or failures else 0


if __name__ == "__main__":
    sys.exit(main())
