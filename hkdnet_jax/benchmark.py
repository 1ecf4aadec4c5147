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

from data_pipelines import scenes
from hkdnet_jax import metrics
from hkdnet_jax.common.atomic_files import to_json, write_atomically
from hkdnet_jax.common.errors import exit_code, say
from hkdnet_jax.measuring import settings
from hkdnet_jax.measuring.arguments import make_parser
from hkdnet_jax.measuring.flicker import open_sequences
from hkdnet_jax.measuring.measure import Row, Settings
from hkdnet_jax.measuring.runs import (
    run_exported,
    run_flicker,
    run_metrics,
    run_parity,
    run_peers,
    run_subject,
)
from hkdnet_jax.measuring.subjects import SUBJECTS, Subject
from hkdnet_jax.pretrained.arguments import load_model
from hkdnet_jax.runtime import compile_cache, start


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if every row was measured."""
    return exit_code(
        lambda: _run(make_parser().parse_args(argv)), interrupted="nothing was written"
    )


def _run(args: argparse.Namespace) -> int:
    settings.check_out(args.out)
    others = {
        "metrics": _run_metrics,
        "parity": _run_parity,
        "exported": _run_exported,
        "flicker": _run_flicker,
        "peers": _run_peers,
    }
    report = others.get(args.subject, _run_subject)(args)
    say("error", report.get("failures", ()))
    if args.out is not None:
        write_atomically(args.out, to_json(report).encode())
        print(f"Wrote {args.out}.")
    return 1 if report.get("failures") else 0


def _run_parity(args: argparse.Namespace) -> Row:
    return run_parity(args.preset, args.dtype)


def _run_exported(args: argparse.Namespace) -> Row:
    settings.check_count("--repeats", args.repeats)
    sizes = settings.parse_sizes(args.size, scenes.MIN_SIZE)
    return run_exported(args.files, sizes, args.repeats)


def _run_flicker(args: argparse.Namespace) -> Row:
    compile_cache.enable()
    student = load_model(args.model, args.scale, args.style)
    own = args.teacher is not None
    teacher = load_model(args.teacher, 1) if own else load_model(None, 1, args.style)
    return run_flicker(
        student, teacher, open_sequences(args.ir, args.vis, student.scale)
    )


def _run_peers(args: argparse.Namespace) -> Row:
    fuse = SUBJECTS["fuse"]
    sizes = settings.parse_sizes(args.size, scenes.MIN_SIZE)
    return run_peers(args.programs, _settings(args, fuse), sizes)


def _run_metrics(args: argparse.Namespace) -> Row:
    settings.check_count("--repeats", args.repeats)
    least = max(metrics.METRICS[name].min_side for name in metrics.PAPER)
    return run_metrics(settings.parse_sizes(args.size, least), args.repeats)


def _run_subject(args: argparse.Namespace) -> Row:
    subject = SUBJECTS[args.subject]
    chosen = _settings(args, subject)
    sizes = settings.parse_sizes(args.size, subject.least_side)
    return run_subject(args.subject, chosen, sizes)


def _settings(args: argparse.Namespace, subject: Subject) -> Settings:
    settings.check_count("--repeats", args.repeats)
    chosen = Settings(args.preset, args.scale, args.batch, args.repeats, args.dtype)
    settings.check_settings(subject, chosen)
    return chosen


if __name__ == "__main__":
    start.tune()
    sys.exit(main())
