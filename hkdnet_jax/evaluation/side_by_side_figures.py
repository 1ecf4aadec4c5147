"""Figures of a comparison: curves over the images, and sheets with enlarged boxes.

They are those of `report images` and `report sheet`, as in Fig. 7 to 10 of Xiao et al.,
IEEE TIM 2022.
"""

from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.image_files import read_gray, to_8_bit
from hkdnet_jax.common.pair_files import Pair, read_pair
from hkdnet_jax.evaluation.contenders import multiple_of
from hkdnet_jax.evaluation.figures import curves, style, zoomed
from hkdnet_jax.evaluation.pictures import crop_to_multiple
from hkdnet_jax.evaluation.side_by_side import Measured, picture_file
from hkdnet_jax.evaluation.side_by_side_tables import scores_of

_SCENES = 3  # on a sheet
_CURVES, _SHEET = ".pdf", ".png"


def draw(measured: Measured, pairs: Sequence[Pair], out: Path) -> list[Path]:
    """Draws the figures of a comparison into `out`/figures.

    For each scale they are xS_own, xS_plain and xS_paper (each value over the images)
    and xS_sheet (the first three pairs that every method has).

    Args:
      measured: see `side_by_side.compare`, which wrote the pictures below `out`.
      pairs: the pairs that were compared.
      out: the folder of the comparison.

    Returns:
      The files.

    Raises:
      UserError: matplotlib is not installed, or a file cannot be read or written.
    """
    files = []
    for title, scores in scores_of(measured).items():
        if any(scores.methods.values()):
            name = title.replace(" ", "_") + _CURVES
            files.append(out / "figures" / name)
            content = style.encode(curves.draw_images(scores), _CURVES)
            atomic_files.write_atomically(files[-1], content)
    for scale in measured.rows:
        rows = _scenes(measured, pairs, scale, out)
        if rows:
            files.append(out / "figures" / f"x{scale}_sheet{_SHEET}")
            content = style.encode(zoomed.draw_sheet(rows), _SHEET)
            atomic_files.write_atomically(files[-1], content)
    return files


def _scenes(
    measured: Measured, pairs: Sequence[Pair], scale: float, out: Path
) -> list[zoomed.Row]:
    """The pictures of the first pairs that every measured method has."""
    methods = {name: rows for name, rows in measured.rows[scale].items() if rows}
    complete = [p for p in pairs if all(p.name in rows for rows in methods.values())]
    rows = []
    for pair in complete[: _SCENES if methods else 0]:
        multiple = multiple_of(scale)
        sources = (crop_to_multiple(to_8_bit(x), multiple) for x in read_pair(pair))
        pictures = dict(zip(("infrared", "visible"), sources, strict=True))
        pictures |= {m: read_gray(picture_file(out, scale, m, pair)) for m in methods}
        rows.append(zoomed.Row(pair.name, pictures))
    return rows
