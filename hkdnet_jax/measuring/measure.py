"""Measures time and memory, describes the machine, and fits laws to the figures."""

import dataclasses
import math
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jaxlib
import numpy as np

from hkdnet_jax.runtime import memory

Row = dict[str, Any]
Size = tuple[int, int]  # height, width


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that all rows of a run share.

    Attributes:
      preset: preset of the student, a key of `models.presets.PRESETS`.
      scale: output pixels per input pixel along each side; 1 is the teacher.
      batch: number of images or samples at a time.
      repeats: number of timed calls for each row.
      dtype: type of the arithmetic: float32 or bfloat16.
    """

    preset: str
    scale: int
    batch: int
    repeats: int
    dtype: str


def size_text(size: Sequence[int]) -> str:
    """A size as text, such as `64x80` for (64, 80)."""
    return f"{size[0]}x{size[1]}"


def timed(function: Callable[[], object]) -> float:
    """Seconds that one call takes until its result is ready."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def statistics(seconds: Sequence[float]) -> Row:
    """The median, minimum and maximum of the timed calls, in seconds."""
    return {
        "seconds": median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
    }


def in_turns(
    runs: Sequence[Callable[[], object]], first: Sequence[float], repeats: int
) -> list[Row]:
    """Times programs in turns, so that what else the machine does slows all alike.

    Args:
      runs: the programs.
      first: seconds that the first call of each took, which may have compiled it.
      repeats: number of timed calls of each.

    Returns:
      A row for each program: its `statistics`; `compile_seconds`, what its first call
      took beyond a later one; and `relative`, the median of its time over that of the
      first program in the same turn.
    """
    turns = [[timed(run) for run in runs] for _ in range(repeats)]
    rows = []
    for i, start in enumerate(first):
        row = statistics([turn[i] for turn in turns])
        row["compile_seconds"] = max(0.0, start - row["seconds"])
        row["relative"] = median(turn[i] / turn[0] for turn in turns)
        rows.append(row)
    return rows


def compiled(
    function: Callable[..., Any], *args: Any
) -> tuple[jax.stages.Compiled, float]:
    """Compiles a function; returns its program, and the seconds that this took.

    Args:
      function: a function that jax can trace, jitted or not.
      *args: its arguments, arrays or jax.ShapeDtypeStructs.
    """
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    start = time.perf_counter()
    program = jitted.lower(*args).compile()
    return program, time.perf_counter() - start


def process_row() -> Row:
    """The part of a row that describes the process which measured it.

    `peak_rss_bytes` is the peak of the process's memory since its start (or since the
    peak was restarted), `peak_device_bytes` that of an accelerator (None on a CPU).
    """
    stats = jax.devices()[0].memory_stats()
    return {
        "peak_rss_bytes": memory.peak_rss(),
        "peak_device_bytes": stats["peak_bytes_in_use"] if stats else None,
        "pid": os.getpid(),
    }


def machine() -> Row:
    """Describes what the figures depend on: processor, memory, versions, devices."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "device_count": jax.device_count(),
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


def line(x: Sequence[float], y: Sequence[float | None]) -> tuple[float, float] | None:
    """Fits y = slope * x + intercept by least squares.

    Returns:
      (slope, intercept), or None if there are fewer than two different x, or a y is
      None.
    """
    if len(set(x)) < 2 or None in y:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def exponent(x: Sequence[float], y: Sequence[float | None]) -> float | None:
    """Fits y ~ x**p by least squares of the logarithms.

    Args:
      x: positive numbers.
      y: as many numbers as in `x`, or None for missing ones.

    Returns:
      The exponent p, or None if `line` finds none or a y is not positive.
    """
    if any(value is None or value <= 0 for value in y):
        return None
    fit = line([math.log(value) for value in x], [math.log(value) for value in y])
    return fit and fit[0]
