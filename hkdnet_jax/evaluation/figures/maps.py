"""Heat maps: where the attention modules change the features of a pair.

Figure and equation numbers are those of Xiao et al., IEEE TIM 2022.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from hkdnet_jax.common import arrays
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation.figures import style
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student

# The maps of each image, in the order in which they are drawn over it.
_OVER = {
    "infrared": ("DFAG",),
    "visible": ("corner mask", "corner", "position", "channel"),
}
_COLOURS = "inferno"  # its lightness grows with the value, in gray print too


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


@style.styled
def draw_maps(ir: np.ndarray, vis: np.ndarray, maps: Mapping[str, np.ndarray]) -> Any:
    """Draws heat maps over the images whose features they are of (Fig. 12).

    Each map has its own scale, from its smallest to its largest value. Corners, which
    are single pixels, are drawn larger than they are.

    Args:
      ir: uint8 [H, W].
      vis: uint8 [H, W].
      maps: see `heat_maps`.

    Returns:
      A matplotlib Figure, as wide as a printed page.

    Raises:
      UserError: matplotlib is not installed.
    """
    cells = []
    for (name, over), picture in zip(_OVER.items(), (ir, vis), strict=True):
        present = [one for one in over if one in maps]
        cells += [(title, picture) for title in (name, *present) if present]
    columns = min(4, len(cells))
    height, width = ir.shape
    side = style.PAGE / columns * height / width + 0.5
    figure, grid = style.panels(len(cells), columns, style.PAGE, side)
    for panel, (title, picture) in zip(grid, cells, strict=True):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
        panel.axis("off")
        if title in maps:
            heat = maps[title]
            title += f"\n{heat.min():.4g} to {heat.max():.4g}"
            if title.startswith("corner"):
                heat = ndimage.maximum_filter(heat, max(height, width) // 80 + 1)
            _draw_heat(panel, heat)
        panel.set_title(title)
    _name_colours(figure, grid)
    return figure


def _draw_heat(panel: Any, heat: np.ndarray) -> None:
    """Draws a map over a panel's picture, the less the more transparent."""
    low, high = float(heat.min()), float(heat.max())
    unit = (heat - low) / ((high - low) or 1)
    panel.imshow(
        unit,
        cmap=_COLOURS,
        vmin=0,
        vmax=1,
        alpha=0.2 + 0.7 * unit,
        interpolation="nearest",
    )


def _name_colours(figure: Any, grid: list) -> None:
    from matplotlib.cm import ScalarMappable

    where = {"ax": grid, "orientation": "horizontal", "aspect": 60, "pad": 0.02}
    bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), shrink=0.4, **where)
    bar.set_ticks([0, 1], labels=["least of a map", "most"])
