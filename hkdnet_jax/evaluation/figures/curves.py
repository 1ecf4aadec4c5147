"""Curves: of training, of images by method, of sweeps, and of speed.

Figure numbers are those of Xiao et al., IEEE TIM 2022.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation.figures import style
from hkdnet_jax.evaluation.tables import Scores, heading

Curve = tuple[np.ndarray, np.ndarray]  # x, values
Curves = Mapping[str, Curve]
_KINDS = {"train": "training", "val": "validation"}
_WORDS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "grad": "gradient",
    "percep": "perceptual",
    "idle": "idle units",
}
_MANY = 30  # images from which on markers would hide the lines


def run_curves(workdir: Path) -> dict[str, Curve]:
    """The curves of a run over its steps by name, `train/...` and `val/...`.

    Raises:
      UserError: the folder holds no run.
    """
    file = workdir / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        names = dict.fromkeys(name for row in rows for name in row if name != "step")
        points = {
            name: [
                (row["step"], row[name]) for row in rows if row.get(name) is not None
            ]
            for name in names
        }
        curves = {name: _curve(dict(found)) for name, found in points.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        raise UserError(
            f"{workdir} holds no run: {file} cannot be read; give the --workdir of a "
            "training run."
        ) from None
    if not any(len(steps) for steps, _ in curves.values()):
        raise UserError(
            f"{workdir} holds a run without numbers yet: {file} is empty; wait for its "
            "first log_every_steps steps."
        )
    return curves


def _curve(points: Mapping[float, float]) -> Curve:
    return np.asarray(list(points)), np.asarray(list(points.values()), float)


def sweep_curves(scores: Scores) -> tuple[dict[str, Curve], str]:
    """The means of a sweep over a number, such as alpha.

    Args:
      scores: see `score_files.read`; the methods are named `NAME = NUMBER`.

    Returns:
      The curve of each metric over the number, and the number's name.

    Raises:
      UserError: a variant is no number.
    """
    at = {}
    for method in scores.methods:
        try:
            at[method] = float(method.partition("=")[2])
        except ValueError:
            raise UserError(
                f"{method!r} is no value of a number: draw this sweep as a table."
            ) from None
    order = sorted(at, key=at.get)
    means = {m: {at[x]: scores.mean(x, m) for x in order} for m in scores.metrics}
    name = order[0].partition("=")[0].strip()
    return {metric: _curve(values) for metric, values in means.items()}, name


@style.styled
def draw_runs(runs: Mapping[str, Curves]) -> Any:
    """Draws the terms of the loss and the validation of training runs (Fig. 6).

    A vertical line is where a student's second phase starts.

    Args:
      runs: `run_curves` by the run's name.

    Returns:
      A matplotlib Figure, as wide as a printed column.

    Raises:
      UserError: matplotlib is not installed.
    """
    every = dict.fromkeys(n for curves in runs.values() for n in curves if _drawn(n))
    # A value that was taken once, such as that of the last step, is no curve.
    lengths = {n: max(len(c[n][0]) for c in runs.values() if n in c) for n in every}
    names = [n for n in every if lengths[n] > 1] or list(every)
    names.sort(key=lambda name: (name.startswith("val/"), name != "train/loss"))
    figure, grid = style.panels(len(names), 2, style.COLUMN, 1.0, sharex=True)
    for panel, name in zip(grid, names, strict=True):
        for number, (run, curves) in enumerate(runs.items()):
            _draw_run(panel, name, curves, run, style.series(number))
        span = _span([c[name][1] for c in runs.values() if name in c])
        if name.startswith("train/") and span > 10:
            style.log_axis(panel.yaxis, span)
        panel.set_title(_title(name))
    for panel in grid[-2:]:
        panel.set_xlabel("step")
    style.name_series(figure, grid[0])
    return figure


def _drawn(name: str) -> bool:
    """Whether a curve has a panel: the losses, and what is validated of the whole."""
    kind, _, value = name.partition("/")
    if kind == "train":
        return value.startswith("loss")
    # Parts of a mean, and shares that are 1 unless something is wrong, have no panel.
    parts = ("_ir", "_vis", "_bicubic")
    return not value.endswith(parts) and not value.startswith(("alive", "loss"))


def _draw_run(panel: Any, name: str, curves: Curves, run: str, look: dict) -> None:
    if name in curves:
        steps, values = curves[name]
        panel.plot(steps, values, label=run, markevery=len(steps) // 8 + 1, **look)
    other, label = _beside(name)
    if other in curves and len(curves[other][0]):
        steps, values = curves[other]
        panel.plot(steps, values, color=look["color"], linestyle=":", linewidth=0.9)
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}
        place = {"ha": "right", "va": "bottom", "fontsize": 5, "bbox": paper}
        panel.annotate(label, (steps[-1], values[-1]), **place)
    at, phases = curves.get("train/phase", ((), ()))
    for step in np.asarray(at)[1:][np.diff(phases) > 0]:
        panel.axvline(step, color="0.5", linewidth=0.6)


def _beside(name: str) -> tuple[str, str]:
    """The curve that is dotted into the panel of another, and what it is."""
    kind, _, value = name.partition("/")
    if kind == "train":
        return f"val/{value}", "validation"
    return f"{name}_bicubic", "bicubic"


def _span(curves: Sequence[np.ndarray]) -> float:
    """The largest value of some curves over the smallest; 1 if one is not positive."""
    values = np.concatenate(curves)
    return values.max() / values.min() if len(values) and values.min() > 0 else 1


def _title(name: str) -> str:
    kind, _, value = name.partition("/")
    value = value.removeprefix("loss_")
    return f"{_KINDS[kind]}: {_WORDS.get(value, value)}"


@style.styled
def draw_images(scores: Scores) -> Any:
    """Draws each metric over the images, a curve for each method (Fig. 10).

    Returns:
      A matplotlib Figure, as wide as a printed page.

    Raises:
      UserError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(i for found in scores.methods.values() for i in found))
    figure, grid = style.panels(len(scores.metrics), 3, style.PAGE, 1.7)
    at = np.arange(1, len(names) + 1)
    for panel, metric in zip(grid, scores.metrics, strict=True):
        for number, (method, images) in enumerate(scores.methods.items()):
            values = [images[n][metric] if n in images else np.nan for n in names]
            look = style.series(number)
            if len(names) > _MANY:
                look["marker"] = ""
            panel.plot(at, values, label=method, **look)
        panel.set_title(heading(metric))
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_xlabel("image")
    style.name_series(figure, grid[0])
    return figure


@style.styled
def draw_sweep(curves: Curves, name: str) -> Any:
    """Draws what a sweep over a number gives, a panel for each value (Fig. 13).

    Args:
      curves: see `sweep_curves`.
      name: what the number is, such as alpha.

    Returns:
      A matplotlib Figure, as wide as a printed column.

    Raises:
      UserError: matplotlib is not installed.
    """
    figure, grid = style.panels(len(curves), 2, style.COLUMN, 1.15)
    for panel, (metric, curve) in zip(grid, curves.items(), strict=True):
        panel.plot(*curve, **style.series(0))
        panel.set_title(heading(metric))
    for panel in grid[-2:]:
        panel.set_xlabel(name)
    return figure


@style.styled
def draw_speed(speeds: Mapping[str, Sequence[Mapping[str, float | None]]]) -> Any:
    """Draws time and memory over the size of an input, all logarithmic.

    Args:
      speeds: see `score_files.read_speed`.

    Returns:
      A matplotlib Figure, as wide as a printed column.

    Raises:
      UserError: matplotlib is not installed.
    """
    figure, grid = style.panels(2, 2, style.COLUMN, 1.9)
    wanted = {"seconds": "time for one, s", "gigabytes": "peak memory, GB"}
    for panel, (key, title) in zip(grid, wanted.items(), strict=True):
        for number, (name, rows) in enumerate(speeds.items()):
            points = [(r["pixels"], r[key]) for r in rows if r[key] is not None]
            panel.plot(*_curve(dict(points)), label=name, **style.series(number))
        pixels = [row["pixels"] for rows in speeds.values() for row in rows]
        style.log_axis(panel.xaxis, max(pixels) / min(pixels))
        style.log_axis(panel.yaxis, _span([c.get_ydata() for c in panel.get_lines()]))
        panel.set(xlabel="pixels of an input", title=title)
    style.name_series(figure, grid[0])
    return figure
