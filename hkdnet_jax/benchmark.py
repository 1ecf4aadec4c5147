r"""Measures speed and memory on this machine; reports them as a table and as JSON.

    python -m hkdnet_jax.benchmark fuse --preset full --scale 2 --size 64x64,128x128 \
        --out fuse.json

Times are wall-clock seconds after compilation, so run it on an otherwise idle machine.
There is one subcommand for each thing to measure; docs/performance.md explains the
figures.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax import metrics
from hkdnet_jax.common.atomic_files import to_json, write_atomically
from hkdnet_jax.common.errors import exit_code
from hkdnet_jax.measuring import settings
from hkdnet_jax.measuring.measure import Row, Settings
from hkdnet_jax.measuring.runs import run_metrics, run_subject
from hkdnet_jax.measuring.subjects import SUBJECTS
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.runtime.precision import DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if every row was measured."""
    return exit_code(
        lambda: _run(_parser().parse_args(argv)), interrupted="nothing was written"
    )


def _run(args: argparse.Namespace) -> int:
    settings.check_count("--repeats", args.repeats)
    settings.check_out(args.out)
    report = args.run(args)
    if args.out is not None:
        write_atomically(args.out, to_json(report).encode())
        print(f"Wrote {args.out}.")
    return 1 if report.get("failures") else 0


def _run_metrics(args: argparse.Namespace) -> Row:
    least = max(metrics.METRICS[name].min_side for name in metrics.PAPER)
    return run_metrics(settings.parse_sizes(args.size, least), args.repeats)


def _run_subject(args: argparse.Namespace) -> Row:
    subject = SUBJECTS[args.subject]
    chosen = Settings(args.preset, args.scale, args.batch, args.repeats, args.dtype)
    settings.check_settings(subject, chosen)
    sizes = settings.parse_sizes(args.size, subject.least_side)
    report = run_subject(args.subject, chosen, sizes)
    for sentence in report["failures"]:
        print(f"error: {sentence}", file=sys.stderr)
    return report


def _parser() -> argparse.ArgumentParser:
    texts = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    example = "example:\n  python -m hkdnet_jax.benchmark"
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.benchmark",
        description="Measure speed and memory on this machine.",
        epilog=f"{example} fuse --preset lite --size 128x128 --out fuse.json",
        **texts,
    )
    subcommands = parser.add_subparsers(required=True, metavar="WHAT")
    what = (
        "the six fusion metrics: each alone, all together, over all cores, and in "
        "plain NumPy"
    )
    add = subcommands.add_parser
    epilog = f"{example} metrics --size 400x500,768x1024 --repeats 9"
    command = add("metrics", help=what, description=what, epilog=epilog, **texts)
    _add_arguments(command, "400x500")
    command.set_defaults(run=_run_metrics)
    for name, subject in SUBJECTS.items():
        epilog = f"{example} {name} --preset full --size {subject.sizes}"
        command = add(
            name, help=subject.what, description=subject.what, epilog=epilog, **texts
        )
        _add_arguments(command, subject.sizes)
        _add_settings(command)
        command.set_defaults(run=_run_subject, subject=name)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, sizes: str) -> None:
    parser.add_argument(
        "--size",
        default=sizes,
        metavar="HxW[,HxW...]",
        help=f"sizes in pixels, height first (default: {sizes})",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="number of timed calls; their median, minimum and maximum are reported "
        "(default: 5)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="file to write the figures and a description of the machine to; an "
        "existing file is replaced",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add, presets = parser.add_argument, ", ".join(PRESETS)
    add("--preset", default="full", help=f"student: {presets} (default: full)")
    scale = "output pixels per input pixel along each side (default: 2)"
    add("--scale", type=int, default=2, help=scale)
    batch = "images or samples at a time (default: 1)"
    add("--batch", type=int, default=1, help=batch)
    dtypes = ", ".join(DTYPES)
    add("--dtype", default="float32", help=f"arithmetic: {dtypes} (default: float32)")


if __name__ == "__main__":
    sys.exit(main())
