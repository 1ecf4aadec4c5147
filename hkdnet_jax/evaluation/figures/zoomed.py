"""Comparison sheets: the pictures of several methods, and enlarged boxes of them.

As in Fig. 7 to 9 and 11 of Xiao et al., IEEE TIM 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.image_files import quantize, read, read_gray, to_8_bit
from hkdnet_jax.common.levels import luma
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.evaluation.figures import style
from hkdnet_jax.evaluation.scoring import SavedImages
from hkdnet_jax.inference.inputs import read_inputs
from hkdnet_jax.inference.options import Options

Box = tuple[int, int, int, int]  # left, top, width, height; pixels of a fused picture
_EDGES = (style.COLOURS[4], style.COLOURS[5])  # light enough for dark pictures
_SHOWN = 3  # pairs on a sheet, unless they are named
_LEFT, _TOP = 0.14, 0.17  # inches, for the names
_SURROUNDINGS = 9  # pixels, the side of a square
_LETTER = 0.62  # width of a letter of a name in font sizes, about
_SHARE = 5  # the shorter side of a picture in sides of the box that is chosen


@dataclass(frozen=True)
class Row:
    """The pictures of one scene.

    Attributes:
      name: the scene.
      pictures: uint8 [H, W] or [H, W, 3] of one size, by what they are: the infrared,
        the visible, and each method's.
    """

    name: str
    pictures: Mapping[str, np.ndarray]


def read_rows(
    pairs: Sequence[Pair], methods: Mapping[str, SavedImages], names: str | None
) -> list[Row]:
    """Reads the pictures of some pairs that every method has fused.

    Args:
      pairs: the sources.
      methods: the methods' pictures.
      names: names of the pairs, separated by commas; None for the first three.

    Raises:
      UserError: a name is not that of such a pair, there is none, or see `read_row`.
    """
    files = {
        pair.name: {m: one.files.get(pair.name) for m, one in methods.items()}
        for pair in pairs
    }
    complete = {p.name: p for p in pairs if all(files[p.name].values())}
    wanted = list(complete)[:_SHOWN] if names is None else names.split(",")
    if not wanted:
        raise UserError(
            "No pair is fused by every method: give --fused folders whose pictures are "
            "of the same pairs."
        )
    for name in wanted:
        if name not in complete:
            raise UserError(
                f"--pairs {name} is no pair that every method has fused: choose out of "
                f"{listing(list(complete))}."
            )
    return [read_row(complete[name], files[name]) for name in wanted]


def read_row(pair: Pair, fused: Mapping[str, Path]) -> Row:
    """Reads the pictures of a scene; low-resolution sources are repeated to fit.

    Args:
      pair: the sources, of the fused pictures' size or 1/2, 1/3 or 1/4 of it.
      fused: file of the fused picture by method.

    Raises:
      UserError: a file cannot be read, or the sizes do not fit.
    """
    inputs = read_inputs(pair, Options())
    visible = inputs.vis[..., 0] if inputs.colour is None else inputs.colour
    sources = {
        "infrared": (pair.ir, quantize(inputs.ir[..., 0], "8")),
        "visible": (pair.vis, quantize(visible, "8")),
    }
    found = {method: (file, _read(file)) for method, file in fused.items()}
    (largest, picture) = max(found.values(), key=lambda one: one[1].shape[0])
    size = picture.shape[:2]
    return Row(
        pair.name,
        {
            name: _repeated(file, image, size, largest)
            for name, (file, image) in (sources | found).items()
        },
    )


def _read(file: Path) -> np.ndarray:
    pixels = read(file, 0).pixels
    return pixels if pixels.dtype == np.uint8 else to_8_bit(read_gray(file))


def _repeated(
    file: Path, image: np.ndarray, size: tuple[int, int], largest: Path
) -> np.ndarray:
    """Repeats pixels until the picture has this size."""
    times = size[0] // image.shape[0]
    if (image.shape[0] * times, image.shape[1] * times) != tuple(size):
        raise UserError(
            f"{file} is {image.shape[1]}x{image.shape[0]} but {largest} is "
            f"{size[1]}x{size[0]}: give pictures of one size, or sources of 1/2, 1/3 "
            "or 1/4 of it."
        )
    return image.repeat(times, axis=0).repeat(times, axis=1)


def busiest_box(row: Row) -> Box:
    """The square in which the detail of a row's fused pictures differs most.

    Detail is what a pixel has beyond the mean of its surroundings, so that a flat sky
    that one method shows darker is not taken.  The side of the square is a
    fifth of the picture's shorter side.
    """
    fused = (luma(x).astype(np.float32) for x in list(row.pictures.values())[2:])
    details = [x - ndimage.uniform_filter(x, _SURROUNDINGS) for x in fused]
    if len(details) < 2:  # then where there is most of it
        details.append(np.zeros_like(details[0]))
    spread = np.std(np.stack(details), axis=0)
    height, width = spread.shape
    side = max(1, min(height, width) // _SHARE)
    means = ndimage.uniform_filter(spread, side, mode="constant")
    half = side // 2
    inner = means[half : half + height - side + 1, half : half + width - side + 1]
    top, left = np.unravel_index(np.argmax(inner), inner.shape)
    return int(left), int(top), side, side


def parse_box(text: str) -> Box:
    """Reads `LEFT,TOP,WIDTH,HEIGHT`.

    Raises:
      UserError: it is something else.
    """
    try:
        left, top, width, height = map(int, text.split(","))
        if min(left, top) < 0 or min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--box {text} is no box: write LEFT,TOP,WIDTH,HEIGHT in pixels of the "
            "fused picture, such as 40,30,64,48."
        ) from None
    return left, top, width, height


@style.styled
def draw_sheet(rows: Sequence[Row], boxes: Sequence[Box] = ()) -> Any:
    """Draws rows of pictures, and below each picture its boxes, enlarged.

    Args:
      rows: scenes with the same methods.
      boxes: one or two boxes for all rows; none for each row's `busiest_box`.

    Returns:
      A matplotlib Figure, as wide as a printed page.

    Raises:
      UserError: a box lies outside of a picture, or matplotlib is not installed.
    """
    names = list(rows[0].pictures)
    cell = (style.PAGE - _LEFT) / len(names)
    size = min(7, 72 * cell / (_LETTER * max(map(len, names))))  # points
    chosen = [tuple(boxes) or (busiest_box(row),) for row in rows]
    talls = [cell * x.shape[0] / x.shape[1] for x in map(_first, rows)]
    zooms = [
        min(tall, max(cell / len(own) * h / w for _, _, w, h in own))
        for tall, own in zip(talls, chosen, strict=True)
    ]
    total = _TOP + sum(talls) + sum(zooms)
    figure = style.new_figure(style.PAGE, total)
    figure.set_layout_engine("none")  # every place is known
    below = total - _TOP
    for row, own, tall, zoom in zip(rows, chosen, talls, zooms, strict=True):
        _check_inside(row, own)
        for column, name in enumerate(names):
            left = _LEFT + column * cell
            panel = _panel(figure, (left, below - tall, cell, tall))
            _show(panel, row.pictures[name])
            if row is rows[0]:
                panel.set_title(name, pad=2, fontsize=size)
            if column == 0:
                panel.set_ylabel(row.name, fontsize=5)
            wide = cell / len(own)
            for place, (box, edge) in enumerate(zip(own, _EDGES, strict=False)):
                _outline(panel, box, edge)
                part = (left + place * wide, below - tall - zoom, wide, zoom)
                x, y, w, h = box
                _show(
                    _panel(figure, part), row.pictures[name][y : y + h, x : x + w], edge
                )
        below -= tall + zoom
    return figure


def _first(row: Row) -> np.ndarray:
    return next(iter(row.pictures.values()))


def _panel(figure: Any, place: tuple[float, float, float, float]) -> Any:
    """A panel at left, bottom, width and height in inches, with a gap around it."""
    width, height = figure.get_size_inches()
    left, bottom, wide, tall = place
    gap = 0.015
    return figure.add_axes(
        (
            (left + gap) / width,
            (bottom + gap) / height,
            (wide - 2 * gap) / width,
            (tall - 2 * gap) / height,
        )
    )


def _check_inside(row: Row, boxes: Sequence[Box]) -> None:
    tall, wide = _first(row).shape[:2]
    for left, top, width, height in boxes:
        if left + width > wide or top + height > tall:
            raise UserError(
                f"--box {left},{top},{width},{height} does not lie inside {row.name}, "
                f"which is {wide}x{tall}: choose a smaller one."
            )


def _show(panel: Any, image: np.ndarray, edge: str = "0.5") -> None:
    panel.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set(color=edge, linewidth=1.2)


def _outline(panel: Any, box: Box, edge: str) -> None:
    from matplotlib.patches import Rectangle

    left, top, width, height = box
    panel.add_patch(
        Rectangle((left, top), width, height, fill=False, edgecolor=edge, linewidth=1)
    )
