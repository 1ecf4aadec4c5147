r"""How fast this machine is, and how much memory it takes, as a table and as JSON.

    python -m hkdnet_jax.benchmark fuse --preset full --scale 2 --size 64x64,128x128 \
        --out fuse.json

Times are wall-clock seconds after compilation; run it on a machine that does nothing
else.  One subcommand for each thing to measure; what the figures mean stands in
docs/performance.md.
"""

import argparse
import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hkdnet_jax import metrics
from hkdnet_jax.common.atomic_files import to_json, write_atomically
from hkdnet_jax.common.errors import UserError, exit_code
from hkdnet_jax.measuring.fresh import Skipped, call_fresh
from hkdnet_jax.measuring.measure import Row, Settings, Size, machine, size_text
from hkdnet_jax.measuring.metrics import measure_metrics
from hkdnet_jax.measuring.subjects import METRICS_COLUMNS, SUBJECTS, Subject
from hkdnet_jax.measuring.table import header, line
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.training.config import DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if every row was measured."""
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args), interrupted="nothing was written")


def _run(args: argparse.Namespace) -> int:
    _check_count("--repeats", args.repeats)
    _check_out(args.out)
    report, failures = args.run(args)
    if args.out is not None:
        write_atomically(args.out, to_json(report).encode())
        print(f"Wrote {args.out}.")
    return 1 if failures else 0


def _run_metrics(args: argparse.Namespace) -> tuple[Row, list[str]]:
    least = max(metrics.METRICS[name].min_side for name in metrics.PAPER)
    sizes = _parse_sizes(args.size, least)
    print(header(METRICS_COLUMNS), flush=True)
    rows = []
    for row in measure_metrics(sizes, args.repeats):
        print(line(METRICS_COLUMNS, row), flush=True)
        rows.append(row)
    return {"machine": machine(), "rows": rows}, []


def _run_subject(args: argparse.Namespace) -> tuple[Row, list[str]]:
    """The report, and a sentence for each row that failed; the others are in it."""
    subject = SUBJECTS[args.subject]
    settings = _settings(subject, args)
    sizes = _parse_sizes(args.size, subject.least_side)
    # In a process of its own too: this one must not take the accelerator.
    about = call_fresh(machine)
    if subject.trains:
        _check_training(sizes, settings.batch, about["device_count"])

    rows, skipped, failures = [], [], []
    values = itertools.product(sizes, *subject.varied.values())
    cases = [dict(zip(("size", *subject.varied), some, strict=True)) for some in values]
    print(header(subject.columns), flush=True)
    for case in tqdm(cases, unit="process", file=sys.stderr):
        try:
            found = call_fresh(subject.measure, settings, **case)
        except (Skipped, UserError) as problem:
            sentences = skipped if isinstance(problem, Skipped) else failures
            sentences.append(f"{_label(case)}: {problem}")
            continue
        rows += found
        for row in found:
            tqdm.write(line(subject.columns, row), file=sys.stdout)
    fits = subject.fits(rows)
    for fit in fits:
        print(f"fit: {_listing(fit)}")
    for sentence in skipped:
        print(f"skipped: {sentence}")
    for sentence in failures:
        print(f"error: {sentence}", file=sys.stderr)
    report = {
        "machine": about,
        "subject": args.subject,
        "settings": dataclasses.asdict(settings),
        "rows": rows,
        "fits": fits,
        "skipped": skipped,
        "failures": failures,
    }
    return report, failures


def _label(case: Row) -> str:
    others = [f"{name} {value}" for name, value in case.items() if name != "size"]
    return ", ".join([size_text(case["size"]), *others])


def _listing(fit: Row) -> str:
    texts = (f"{v:.4g}" if isinstance(v, float) else v for v in fit.values())
    return ", ".join(f"{k} {text}" for k, text in zip(fit, texts, strict=True))


def _settings(subject: Subject, args: argparse.Namespace) -> Settings:
    for flag, value, choices in (
        ("--preset", args.preset, tuple(PRESETS)),
        ("--scale", args.scale, subject.scales),
        ("--dtype", args.dtype, DTYPES),
    ):
        if value not in choices:
            listed = ", ".join(map(str, choices))
            raise UserError(f"{flag} {value} is none of the choices: give {listed}.")
    _check_count("--batch", args.batch)
    return Settings(args.preset, args.scale, args.batch, args.repeats, args.dtype)


def _check_count(flag: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{flag} {value} is too few: give 1 or more.")


def _check_out(out: Path | None) -> None:
    """UserError before the work, not after it."""
    if out is None:
        return
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file for the JSON.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(
            f"--out {out}: {out.parent} is no folder that can be written to: "
            "make it or choose another one."
        )


def _parse_sizes(spec: str, least: int) -> list[Size]:
    sizes: list[Size] = []
    for part in spec.split(","):
        found = re.fullmatch(r"\s*(\d+)x(\d+)\s*", part)
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if min(size) < least:
            raise UserError(
                f"--size {spec}: {part!r} is no height and width of at least {least} "
                "pixels: give a size such as 400x500."
            )
        sizes.append(size)
    if len(set(sizes)) < len(sizes):
        raise UserError(f"--size {spec} names a size twice: give each once.")
    return sizes


def _check_training(sizes: Sequence[Size], batch: int, devices: int) -> None:
    for size in sizes:
        if size[0] != size[1]:
            raise UserError(
                f"--size {size_text(size)} is not square, but training crops are: "
                f"give {size_text((max(size), max(size)))}."
            )
    if batch % devices:
        raise UserError(
            f"--batch {batch} cannot be split over the {devices} devices: give a "
            "multiple."
        )


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
    what = "the six fusion metrics: each, all, over all cores, and in plain NumPy"
    add = subcommands.add_parser
    epilog = f"{example} metrics --size 400x500,768x1024 --repeats 9"
    one = add("metrics", help=what, description=what, epilog=epilog, **texts)
    _add_arguments(one, "400x500")
    one.set_defaults(run=_run_metrics)
    for name, subject in SUBJECTS.items():
        epilog = f"{example} {name} --preset full --size {subject.sizes}"
        one = add(
            name, help=subject.what, description=subject.what, epilog=epilog, **texts
        )
        _add_arguments(one, subject.sizes)
        _add_settings(one)
        one.set_defaults(run=_run_subject, subject=name)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, sizes: str) -> None:
    parser.add_argument(
        "--size",
        default=sizes,
        metavar="HxW[,HxW...]",
        help=f"pixels, height first (default: {sizes})",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="timed calls, of which median, minimum and maximum are given (default: 5)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="file for the figures and the machine's description; replaced if there",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add, presets = parser.add_argument, ", ".join(PRESETS)
    add("--preset", default="full", help=f"{presets} (default: full)")
    add("--scale", type=int, default=2, help="output pixels per input pixel and side")
    add("--batch", type=int, default=1, help="images or samples (default: 1)")
    dtypes = ", ".join(DTYPES)
    add("--dtype", default="float32", help=f"{dtypes} (default: float32)")


if __name__ == "__main__":
    sys.exit(main())
