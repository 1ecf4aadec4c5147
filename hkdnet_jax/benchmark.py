"""How fast this machine is, as a table and as JSON.

    python -m hkdnet_jax.benchmark metrics --size 400x500 --out metrics.json

Times are wall-clock seconds after compilation; run it on a machine that does nothing
else.  One subcommand for each thing to measure.
"""

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jaxlib
import numpy as np

from data_pipelines import scenes
from data_pipelines.errors import UserError, exit_code
from hkdnet_jax import metrics
from hkdnet_jax.metrics import plain
from hkdnet_jax.weights import to_json, write_atomically

Row = dict[str, Any]
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
Size = tuple[int, int]  # height, width

# Plain Python takes a minute for the windows of one image; so many of them, drawn at
# random, take half a second and time one to a few percent.
_PLAIN_WINDOWS = 5000
_PLAIN_REPEATS = 3
_FEATURE_MAPS = {"FMI_dct": plain.dct_map, "FMI_w": plain.wavelet_map}
# Pairs for each thread of a batch: with some, the last ones count little.
_PAIRS_PER_WORKER = 4


# --- the metrics --------------------------------------------------------------------


def measure_metrics(sizes: Sequence[Size], repeats: int) -> Iterator[Row]:
    """Times the six metrics of the paper on made scenes.

    Args:
      sizes: no two alike.
      repeats: timed calls for each row.

    Yields:
      For each size one row for each metric alone, one for all six together ("paper"),
      and one for a batch whose pairs are spread over threads, one a core, as `evaluate`
      scores a folder ("paper", with `pairs`).  Seconds are for one pair;
      `plain_seconds` are those of the NumPy transcription, for FMI inferred from
      `extrapolated_from_windows` windows; `speedup` is their ratio to `seconds`.
    """
    for size in sizes:
        images = _scene(0, size)
        alone = []
        for name in metrics.PAPER:
            alone.append(_metric_row(name, images, repeats))
            yield alone[-1]
        yield _paper_row(images, repeats, alone)
        yield _threads_row(size, repeats)


def _scene(index: int, size: Size) -> Triple:
    """A made pair of `size`, and its plain average for the fused image."""
    ir, vis = scenes.render(0, index, *size)
    return ir, vis, ((ir.astype(np.uint16) + vis + 1) // 2).astype(np.uint8)


def _metric_row(name: str, images: Triple, repeats: int) -> Row:
    row = _time_score((name,), images, repeats) | {"metric": name}
    return _compare(row, *_time_plain(name, images))


def _paper_row(images: Triple, repeats: int, alone: Sequence[Row]) -> Row:
    """All six in one program, against the sum of the plain ones."""
    row = _time_score(metrics.PAPER, images, repeats)
    plain_seconds = sum(other["plain_seconds"] for other in alone)
    windows = sum(other.get("extrapolated_from_windows", 0) for other in alone)
    return _compare(row, plain_seconds, windows)


def _compare(row: Row, plain_seconds: float, windows: int) -> Row:
    row |= {
        "plain_seconds": plain_seconds,
        "speedup": plain_seconds / row["seconds"],
    }
    return row | ({"extrapolated_from_windows": windows} if windows else {})


def _threads_row(size: Size, repeats: int) -> Row:
    workers = os.cpu_count() or 1
    pairs = [_scene(index, size) for index in range(_PAIRS_PER_WORKER)] * workers

    with ThreadPoolExecutor(workers) as pool:

        def score_all() -> None:
            list(pool.map(lambda images: metrics.score(*images), pairs))

        score_all()  # starts the threads; compiles, unless `_paper_row` has
        _restart_peak()
        seconds = [_time(score_all) / len(pairs) for _ in range(repeats)]
    return {
        "size": _text(size),
        "metric": "paper",
        "workers": workers,
        "pairs": len(pairs),
        **_statistics(seconds),
        "peak_rss_bytes": _peak_rss(),
    }


def _time_score(names: Sequence[str], images: Triple, repeats: int) -> Row:
    def score() -> None:
        metrics.score(*images, names)

    first = _time(score)
    _restart_peak()
    seconds = [_time(score) for _ in range(repeats)]
    return {
        "size": _text(images[0].shape),
        "metric": "paper",
        "workers": 1,
        **_statistics(seconds),
        "compile_seconds": max(0.0, first - median(seconds)),
        "peak_rss_bytes": _peak_rss(),
    }


def _time_plain(name: str, images: Triple) -> tuple[float, int]:
    """Seconds of the plain metric; of how many windows, or 0 if of the whole image."""
    if name not in _FEATURE_MAPS:
        score = partial(plain.PAPER[name], *images)
        return median(_time(score) for _ in range(_PLAIN_REPEATS)), 0
    maps: list[np.ndarray] = []
    for_maps = _time(lambda: maps.extend(map(_FEATURE_MAPS[name], images)))
    everywhere = plain.window_positions(maps[0].shape)
    count = min(_PLAIN_WINDOWS, len(everywhere))
    chosen = np.random.default_rng(0).choice(everywhere, count, replace=False)
    for_windows = _time(lambda: plain.fmi_of_maps(*maps, chosen))
    seconds = for_maps + for_windows * len(everywhere) / count
    return seconds, count if count < len(everywhere) else 0


# --- time, memory, machine ----------------------------------------------------------


def _time(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _statistics(seconds: Sequence[float]) -> Row:
    return {
        "seconds": median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
    }


def _restart_peak() -> None:
    """Makes the largest resident memory so far the present one, where Linux lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_rss() -> int | None:
    """Bytes, the largest since `_restart_peak`; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, memory, versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "devices": sorted({device.device_kind for device in jax.devices()}),
    }


def _cpu_model() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    found = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


# --- the command --------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args), interrupted="nothing was written")


def _run(args: argparse.Namespace) -> int:
    _check_common(args)
    rows = args.run(args)
    if args.out is not None:
        report = {"machine": machine(), "rows": rows}
        write_atomically(args.out, to_json(report).encode())
        print(f"Wrote {args.out}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    texts = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.benchmark",
        description="Measure speed and memory on this machine.",
        epilog="example:\n"
        "  python -m hkdnet_jax.benchmark metrics --size 400x500 --out metrics.json",
        **texts,
    )
    subcommands = parser.add_subparsers(required=True, metavar="WHAT")
    _add_metrics(
        subcommands.add_parser(
            "metrics",
            help="the six fusion metrics, and their plain NumPy transcription",
            description="Time the six fusion metrics on made scenes: each alone, all "
            "together, and\nover all cores; against their plain NumPy transcription.",
            epilog="example:\n"
            "  python -m hkdnet_jax.benchmark metrics --size 400x500,768x1024 "
            "--repeats 9",
            **texts,
        )
    )
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
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


def _check_common(args: argparse.Namespace) -> None:
    """UserError before the work, not after it."""
    if args.repeats < 1:
        raise UserError(f"--repeats {args.repeats} is too few: give 1 or more.")
    if args.out is None:
        return
    if args.out.is_dir():
        raise UserError(f"--out {args.out} is a folder: give a file for the JSON.")
    if not args.out.parent.is_dir() or not os.access(args.out.parent, os.W_OK):
        raise UserError(
            f"--out {args.out}: {args.out.parent} is no folder that can be written to: "
            "make it or choose another one."
        )


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        default="400x500",
        metavar="HxW[,HxW...]",
        help="pixels, height first (default: 400x500)",
    )
    _add_common(parser)
    parser.set_defaults(run=_run_metrics)


def _run_metrics(args: argparse.Namespace) -> list[Row]:
    sizes = _parse_sizes(args.size)
    print(_HEADER, flush=True)
    rows = []
    for row in measure_metrics(sizes, args.repeats):
        print(_line(row), flush=True)
        rows.append(row)
    return rows


def _parse_sizes(spec: str) -> list[Size]:
    least = max(metrics.METRICS[name].min_side for name in metrics.PAPER)
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


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


_HEADER = (
    f"{'size':>11} {'metric':>8} {'threads':>7} {'ms a pair':>9} {'min':>9} {'max':>9} "
    f"{'compile s':>9} {'plain ms':>10} {'speedup':>8} {'peak MB':>8}"
)


def _line(row: Row) -> str:
    """A row as text under `_HEADER`."""
    cells = [f"{1e3 * row[f'seconds{end}']:9.2f}" for end in ("", "_min", "_max")]
    cells += [
        _cell(row, "compile_seconds", 9, 1),
        _cell(row, "plain_seconds", 10, 1e3),
        _cell(row, "speedup", 8, 1),
        _cell(row, "peak_rss_bytes", 8, 1e-6),
    ]
    head = f"{row['size']:>11} {row['metric']:>8} {row['workers']:7d} "
    return head + " ".join(cells)


def _cell(row: Row, key: str, width: int, factor: float) -> str:
    value = row.get(key)
    return f"{'-':>{width}}" if value is None else f"{value * factor:{width}.1f}"


if __name__ == "__main__":
    sys.exit(main())
