"""The figures of a run and of the ablations: the data of each, and one drawing.

Figure numbers are those of Xiao et al., IEEE TIM 2022.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hkdnet_jax.common import arrays
from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student

Curve = tuple[np.ndarray, np.ndarray]  # steps, values
_COLUMN = 3.5  # inches, the width of a printed column
_MAPS = ("DFAG", "corner", "position", "channel", "corner mask")


def run_curves(workdir: Path) -> dict[str, Curve]:
    """The curves of a run by name, `train/...` and `val/...` (Fig. 6).

    Raises:
      UserError: the folder holds no run.
    """
    file = workdir / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    except (OSError, ValueError):
        raise UserError(f"{workdir} holds no run: {file} cannot be read.") from None
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    curves = {}
    for name in names:
        points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
        steps, values = zip(*points, strict=True) if points else ((), ())
        curves[name] = np.asarray(steps), np.asarray(values, float)
    return curves


def heat_maps(model: Model, ir: np.ndarray, vis: np.ndarray) -> dict[str, np.ndarray]:
    """How much each attention module changes the features of a pair (Fig. 12).

    Args:
      model: a student.
      ir: uint8 [H, W], the low-resolution infrared image.
      vis: uint8 [H, W].

    Returns:
      float32 [H, W] by the name of the module; modules that the student lacks are
      missing. `DFAG`: mean magnitude, over the channels, of what the DFABs' attention
      adds (delta M D3, Eq. 7). `corner`, `position`, `channel`: that of the three terms
      of CEA (Eq. 9, 11, 13). `corner mask`: share of channels with a corner (Eq. 8).

    Raises:
      UserError: the model is no student.
    """
    if not isinstance(model.network, Student):
        raise UserError("Heat maps need a student, which has attention modules.")
    images = (arrays.to_float(x[None, :, :, None]) for x in (ir, vis))
    (_, out), kept = model.network.apply(
        {"params": model.params},
        *images,
        capture_intermediates=lambda module, _: (
            module.name in ("rcab2", "conv_in")
            or (module.name or "").startswith("dfab")
        ),
        mutable=["intermediates"],
    )
    branches = kept["intermediates"]["fusion"]
    maps = {}
    if model.network.config.dfag:
        blocks = [v for k, v in branches["ir"]["dfag"].items() if k.startswith("dfab")]
        added = (b["__call__"][0] - b["rcab2"]["__call__"][0] for b in blocks)
        maps["DFAG"] = sum(_magnitude(x) for x in added)
    if model.network.config.cea:
        features = branches["vis"]["cea"]["conv_in"]["__call__"][0]
        for name in ("corner", "position", "channel"):
            maps[name] = _magnitude(out[name] - features)
        maps["corner mask"] = _magnitude(out["corner_mask"])
    return {name: np.asarray(jax.device_get(x)) for name, x in maps.items()}


def _magnitude(features: jax.Array) -> jax.Array:
    """[1, H, W, C] -> [H, W]: mean magnitude over the channels."""
    return abs(features[0]).mean(axis=-1)


def sweep_values(results: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Curve]:
    """The values of a sweep over a number, such as alpha (Fig. 13), by their name.

    Args:
      results: the rows of a sweep's `table.json`, whose variants are `NAME = NUMBER`.
      kind: `val` or `test`.

    Raises:
      UserError: a variant is no number, or there are no results.
    """
    points: dict[str, dict[float, list[float]]] = {}
    for result in results:
        try:
            at = float(result["variant"].partition("=")[2])
        except ValueError:
            raise UserError(
                f"{result['variant']} is no value of a number: draw this sweep as a "
                "table."
            ) from None
        for name, value in result[kind].items():
            if value is not None:
                points.setdefault(name, {}).setdefault(at, []).append(value)
    if not points:
        raise UserError(f"The sweep has no results of {kind} pairs.")
    return {
        name: (np.asarray(sorted(at)), np.asarray([np.mean(at[x]) for x in sorted(at)]))
        for name, at in points.items()
    }


def draw_curves(curves: Mapping[str, Curve], groups: Sequence[Sequence[str]]) -> Any:
    """Draws curves below each other, one panel for each group of names.

    Args:
      curves: (x, y) by name, see `run_curves` and `sweep_values`.
      groups: names to draw together; those that `curves` lacks are left out.

    Returns:
      A matplotlib Figure, as wide as a printed column.

    Raises:
      UserError: matplotlib is not installed.
    """
    groups = [[name for name in group if name in curves] for group in groups]
    groups = [group for group in groups if group]
    figure = _figure(_COLUMN, 1.6 * len(groups))
    panels = figure.subplots(len(groups), sharex=True, squeeze=False)[:, 0]
    styles = ("-", "--", ":", "-.")
    for panel, group in zip(panels, groups, strict=True):
        for number, name in enumerate(group):
            style = styles[number % len(styles)]  # told apart without colour as well
            panel.plot(*curves[name], style, linewidth=1.2, label=name)
        panel.legend(fontsize=6, frameon=False)
        panel.grid(alpha=0.3, linewidth=0.5)
        panel.tick_params(labelsize=7)
    return figure


def draw_maps(ir: np.ndarray, vis: np.ndarray, maps: Mapping[str, np.ndarray]) -> Any:
    """Draws a pair and its heat maps side by side, each map with its own scale.

    Args:
      ir: uint8 [H, W].
      vis: uint8 [H, W].
      maps: see `heat_maps`.

    Returns:
      A matplotlib Figure.

    Raises:
      UserError: matplotlib is not installed.
    """
    shown = {"infrared": ir, "visible": vis} | {k: maps[k] for k in _MAPS if k in maps}
    height, width = ir.shape
    side = 1.8
    figure = _figure(side * len(shown), side * height / width + 0.5)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for panel, (name, values) in zip(panels, shown.items(), strict=True):
        picture = name in ("infrared", "visible")
        image = panel.imshow(values, cmap="gray" if picture else "cividis")
        panel.set_title(name, fontsize=8)
        panel.axis("off")
        if not picture:
            bar = figure.colorbar(image, ax=panel, orientation="horizontal", pad=0.04)
            bar.ax.tick_params(labelsize=5)
    return figure


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches; it needs no screen."""
    with needs_extra("Drawing figures", "report"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), dpi=200, layout="constrained")
