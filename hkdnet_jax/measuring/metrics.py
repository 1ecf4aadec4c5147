"""Times the fusion metrics against their plain NumPy transcription."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import numpy as np

from data_pipelines import scenes
from hkdnet_jax import metrics
from hkdnet_jax.measuring import plain_metrics
from hkdnet_jax.measuring.measure import Row, Size, size_text, statistics, timed
from hkdnet_jax.runtime import memory

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
# Plain Python takes a minute for all windows of one image. This many of them, drawn at
# random, take half a second and give the time per window to a few percent.
_PLAIN_WINDOWS = 5000
_PLAIN_REPEATS = 3
_FEATURE_MAPS = {"FMI_dct": plain_metrics.dct_map, "FMI_w": plain_metrics.wavelet_map}
# Pairs for each thread of a batch, so that idle threads at its end matter little.
_PAIRS_PER_WORKER = 4


def measure_metrics(sizes: Sequence[Size], repeats: int) -> Iterator[Row]:
    """Times the six metrics of the paper on procedural scenes.

    Args:
      sizes: (height, width) of the images in pixels, all different.
      repeats: number of timed calls for each row.

    Yields:
      For each size, one row for each metric alone, one for all six together ("paper"),
      and one for a batch of pairs that one thread per core scores, as `evaluate` scores
      a folder ("paper", with `pairs`).  `seconds` are for one pair; `plain_seconds` are
      those of the NumPy transcription, for FMI extrapolated from
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
    """A procedural pair of `size`, and its plain average as the fused image."""
    ir, vis = scenes.render(0, index, *size)
    return ir, vis, ((ir.astype(np.uint16) + vis + 1) // 2).astype(np.uint8)


def _metric_row(name: str, images: Triple, repeats: int) -> Row:
    row = _time_score((name,), images, repeats) | {"metric": name}
    return _compare(row, *_time_plain(name, images))


def _paper_row(images: Triple, repeats: int, alone: Sequence[Row]) -> Row:
    """All six metrics in one program, against the sum of the plain ones."""
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

        score_all()  # starts the threads, and compiles unless `_paper_row` has
        memory.restart_peak()
        seconds = [timed(score_all) / len(pairs) for _ in range(repeats)]
    return {
        "size": size_text(size),
        "metric": "paper",
        "workers": workers,
        "pairs": len(pairs),
        **statistics(seconds),
        "peak_rss_bytes": memory.peak_rss(),
    }


def _time_score(names: Sequence[str], images: Triple, repeats: int) -> Row:
    def score() -> None:
        metrics.score(*images, names)

    first = timed(score)
    memory.restart_peak()
    seconds = [timed(score) for _ in range(repeats)]
    return {
        "size": size_text(images[0].shape),
        "metric": "paper",
        "workers": 1,
        **statistics(seconds),
        "compile_seconds": max(0.0, first - median(seconds)),
        "peak_rss_bytes": memory.peak_rss(),
    }


def _time_plain(name: str, images: Triple) -> tuple[float, int]:
    """Seconds of the plain metric, and the number of windows timed; 0 if all were."""
    if name not in _FEATURE_MAPS:
        score = partial(plain_metrics.PAPER[name], *images)
        return median(timed(score) for _ in range(_PLAIN_REPEATS)), 0
    maps: list[np.ndarray] = []
    for_maps = timed(lambda: maps.extend(map(_FEATURE_MAPS[name], images)))
    everywhere = plain_metrics.window_positions(maps[0].shape)
    count = min(_PLAIN_WINDOWS, len(everywhere))
    chosen = np.random.default_rng(0).choice(everywhere, count, replace=False)
    for_windows = timed(lambda: plain_metrics.fmi_of_maps(*maps, chosen))
    seconds = for_maps + for_windows * len(everywhere) / count
    return seconds, count if count < len(everywhere) else 0
