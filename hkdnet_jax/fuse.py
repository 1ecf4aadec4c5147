"""Fuses infrared/visible pictures with a trained model: one pair, or two folders.

    python -m hkdnet_jax.fuse --ir ir.png --vis vis.png --out fused.png --scale 2
    python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused --model runs/x2
    python -m hkdnet_jax.fuse --ir ir.mp4 --vis vis.mp4 --out fused.mp4 --scale 2

`hkdnet_jax.fuse_pair` does the same for arrays.  This module imports neither TensorFlow
nor orbax.
"""

import argparse
import sys
from collections.abc import Sequence

from hkdnet_jax.common.atomic_files import make_writable
from hkdnet_jax.common.errors import exit_code, say
from hkdnet_jax.common.image_files import image_size
from hkdnet_jax.inference.folder import fuse_files
from hkdnet_jax.inference.inputs import take_ranges
from hkdnet_jax.inference.job_arguments import add_job_arguments, read_jobs
from hkdnet_jax.inference.jobs import Collected, tiling_note
from hkdnet_jax.inference.options import Options, add_option_arguments, read_options
from hkdnet_jax.inference.report import open_lines
from hkdnet_jax.inference.video_arguments import means_video
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.pretrained.arguments import (
    add_computing_arguments,
    add_denoise_argument,
    add_model_arguments,
    add_style_argument,
    load_model,
    set_up,
)
from hkdnet_jax.runtime import compile_cache


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if every pair was fused."""
    compile_cache.enable()
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.fuse",
        description="Fuse infrared and visible pictures into one picture of 1 to 4 "
        "times\ntheir size, in the colour of the visible one. Each side needs at "
        f"least {MIN_SIDE} pixels.",
        epilog="example:\n"
        "  python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused --scale 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_job_arguments(parser)
    add_model_arguments(parser, any_scale=True)
    add_style_argument(parser)
    add_denoise_argument(parser)
    add_computing_arguments(parser)
    add_option_arguments(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    options = read_options(args)
    video = means_video(args)
    collected = Collected([]) if video else read_jobs(args, options.depth)
    # Pairs of two sizes are fused by the teacher, unless a scale or a model is given.
    native = args.match and args.scale is None and args.model is None
    scale = 1 if native else args.scale
    model = load_model(args.model, scale, args.style, args.denoise)
    model = set_up(model, args)
    if video:
        return _run_video(args, model, options)
    jobs = collected.jobs
    file = args.list is None and not args.ir.is_dir()
    folder = args.out.parent if file else args.out
    make_writable(folder)
    # Shards and continued jobs take the same levels and the same offset of a rig.
    others = collected.left_out
    every = [job.pair for job in (*jobs, *others)]
    options, taken = take_ranges(every, options)
    for sentence in collected.notes + taken:
        print(sentence)
    with open_lines(args.json, args.skip_existing) as lines:
        failures = fuse_files(model, jobs, options, lines, others)
    if not file or args.pages == "all":
        print(f"Wrote {len(jobs) - len(failures)} fused pictures to {folder}.")
    elif jobs and not failures:
        height, width = image_size(args.out)
        print(f"Wrote {args.out} ({width}x{height}).")
    if args.tile is not None:
        print(tiling_note(jobs, args.tile, model.scale))
    problems = collected.problems + failures
    say("error", (f"{sentence.rstrip('.')}." for sentence in problems))
    return 1 if problems else 0


def _run_video(args: argparse.Namespace, model: Model, options: Options) -> int:
    # Imported only here: pictures, whose fusing takes a second, need nothing of it.
    from hkdnet_jax.inference.video import fuse_video

    timing = {"ir_offset": args.ir_offset, "fps": args.fps, "codec": args.codec}
    fused = fuse_video(model, args.ir, args.vis, args.out, **timing, **vars(options))
    for sentence in fused.notes:
        print(sentence)
    height, width = fused.size
    print(f"Wrote {fused.frames} frames of {width}x{height} to {args.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
