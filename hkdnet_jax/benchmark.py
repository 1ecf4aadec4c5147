"""How fast this machine is, and how much memory it takes, as a table and as JSON.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.errors import UserError, exit_code
from hkdnet_jax import metrics
from hkdnet_jax.benchmarks import kernels, networks
from hkdnet_jax.benchmarks.fresh import Skipped, call_fresh
from hkdnet_jax.benchmarks.measure import Row, Settings, Size, machine, size_text
from hkdnet_jax.benchmarks.metrics import measure_metrics
from hkdnet_jax.benchmarks.table import Column, header, line
from hkdnet_jax.config_check import CHOICES, MIN_CROP
from hkdnet_jax.models.student import PRESETS
from hkdnet_jax.trained import MIN_SIDE, SCALES
from hkdnet_jax.weights import to_json, write_atomically

# --- what is measured ---------------------------------------------------------------

_SIZE = Column("size", "size", 11)
_BATCH = Column("batch", "batch", 5)
_PASSES = Column("passes", "passes", 16)
_SECONDS = (
    Column("seconds", "seconds", 9, 4),
    Column("min", "seconds_min", 9, 4),
    Column("max", "seconds_max", 9, 4),
    Column("compile s", "compile_seconds", 9),
    Column("GFLOP/s", "gflops", 8),
)
_PEAK = Column("peak MB", "peak_rss_bytes", 8, 0, 1e-6)
_PROGRAM = Column("program MB", "program_bytes", 10, 1, 1e-6)

METRICS_COLUMNS = (
    _SIZE,
    Column("metric", "metric", 8),
    Column("threads", "workers", 7),
    Column("ms a pair", "seconds", 9, 2, 1e3),
    Column("min", "seconds_min", 9, 2, 1e3),
    Column("max", "seconds_max", 9, 2, 1e3),
    Column("compile s", "compile_seconds", 9),
    Column("plain ms", "plain_seconds", 10, 1, 1e3),
    Column("speedup", "speedup", 8),
    _PEAK,
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A subcommand whose rows are measured in fresh processes.

    Attributes:
      what: for --help.
      sizes: default of --size.
      measure: (settings, size, **varied) -> rows, in a process of its own.
      columns: of the table.
      varied: further arguments of `measure`, each with its values; every combination
        has its process.
      fits: laws found in the rows.
      scales: values that --scale may have.
      least_side: of a size, in pixels.
      trains: sizes are square and the batch is split over the devices.
    """

    what: str
    sizes: str
    measure: Callable[..., list[Row]]
    columns: tuple[Column, ...]
    varied: dict[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    fits: Callable[[list[Row]], list[Row]] = lambda rows: []
    scales: Sequence[int] = SCALES
    least_side: int = MIN_SIDE
    trains: bool = False


SUBJECTS = {
    "fuse": Subject(
        "fusing pairs of pictures, from arrays to arrays; scale 1 is the teacher, "
        "which all presets share",
        "64x64,128x128",
        networks.measure_fuse,
        (
            _SIZE,
            _BATCH,
            *_SECONDS,
            Column("images/s", "images_per_second", 8, 2),
            Column("out MP/s", "megapixels_per_second", 8, 3),
            _PEAK,
        ),
        fits=networks.fuse_fits,
    ),
    "train": Subject(
        "the student's train step in both phases, with its teacher and its input; "
        "sizes are those of the low-resolution crop, square",
        "32x32,64x64",
        networks.measure_train,
        (
            _SIZE,
            _BATCH,
            Column("phase", "phase", 5),
            *_SECONDS,
            Column("samples/s", "samples_per_second", 9, 2),
            Column("input %", "input_wait_share", 7, 2, 100),
            _PEAK,
        ),
        {"phase": (1, 2)},
        scales=SCALES[1:],
        least_side=MIN_CROP,
        trains=True,
    ),
    "attention": Subject(
        "the position attention with the preset's channels, over all HxW positions, "
        "in the blocked and the materialized form (--scale plays no role)",
        "80x80,112x112,160x160",
        kernels.measure_attention,
        (
            _SIZE,
            _BATCH,
            Column("form", "implementation", 12),
            _PASSES,
            *_SECONDS,
            _PROGRAM,
            Column("resident MB", "rss_above_baseline_bytes", 11, 1, 1e-6),
            _PEAK,
        ),
        {"implementation": kernels.IMPLEMENTATIONS, "passes": kernels.PASSES},
        fits=kernels.attention_fits,
    ),
    "conv": Subject(
        "a residual group of the preset by our 3x3 convolution and by XLA's own, "
        "beside a large matrix product (--scale plays no role)",
        "64x64",
        kernels.measure_conv,
        (
            _SIZE,
            _BATCH,
            Column("way", "way", 13),
            _PASSES,
            *_SECONDS,
            Column("of matmul %", "share_of_matmul", 11, 1, 100),
            Column("x XLA", "speedup_over_xla", 6, 2),
            Column("difference", "difference_to_xla", 10, 7),
            _PROGRAM,
        ),
    ),
}


# --- the command --------------------------------------------------------------------


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


# --- what the user gives ------------------------------------------------------------


def _settings(subject: Subject, args: argparse.Namespace) -> Settings:
    for flag, value, choices in (
        ("--preset", args.preset, tuple(PRESETS)),
        ("--scale", args.scale, subject.scales),
        ("--dtype", args.dtype, CHOICES["dtype"]),
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
    dtypes = ", ".join(CHOICES["dtype"])
    add("--dtype", default="float32", help=f"{dtypes} (default: float32)")


if __name__ == "__main__":
    sys.exit(main())
