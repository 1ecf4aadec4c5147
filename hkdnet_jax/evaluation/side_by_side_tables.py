"""A comparison of methods as JSON, CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hkdnet_jax import metrics
from hkdnet_jax.common import atomic_files
from hkdnet_jax.evaluation.markdown import markdown_table
from hkdnet_jax.evaluation.scoring import PROTOCOLS
from hkdnet_jax.evaluation.side_by_side import Measured, Row
from hkdnet_jax.evaluation.tables import Scores, list_latex
from hkdnet_jax.evaluation.tables import to_markdown as scores_to_markdown

# Column of the tables -> its place in a row, title, digits after the point.
_OWN = {
    "psnr": (("own", "psnr"), "PSNR, own (dB) ↑", 2),
    "ssim": (("own", "ssim"), "SSIM, own ↑", 4),
    "detail_fidelity": (("detail", "detail_fidelity"), "detail fidelity ↑", 3),
    "detail_energy": (("detail", "detail_energy"), "detail energy ↑", 3),
    "seconds": (("seconds",), "seconds", 2),
    "megabytes": (("megabytes",), "MB", 0),
}
_SCORES = {
    f"{protocol}_{name}": (protocol, name)
    for protocol in PROTOCOLS
    for name in metrics.PAPER
}
# Kind of a table of scores -> its metrics, and the column of each.
_TABLES = {
    "own": {name: name for name in ("psnr", "ssim", *metrics.DETAIL)},
    **{p: {name: f"{p}_{name}" for name in metrics.PAPER} for p in PROTOCOLS},
}
COLUMNS = {name: place for name, (place, *_) in _OWN.items()} | _SCORES


def value(row: Row, column: str) -> float | None:
    """What a row holds for a column of COLUMNS; None if it has no value."""
    found: Any = row
    for part in COLUMNS[column]:
        found = (found or {}).get(part)
    return found


def mean(rows: Mapping[str, Row], column: str) -> float | None:
    """The mean over the images; None unless every one has a value."""
    values = [value(row, column) for row in rows.values()]
    return None if None in values or not values else float(np.mean(values))


def write(measured: Measured, machine: Mapping[str, Any], out: Path) -> str:
    """Writes compare.json, .csv, .md and .tex to a folder, and returns the Markdown.

    Raises:
      UserError: a file cannot be written.
    """
    files = {
        "compare.json": to_json(measured, machine),
        "compare.csv": to_csv(measured),
        "compare.md": to_markdown(measured),
        "compare.tex": to_latex(measured),
    }
    for name, content in files.items():
        atomic_files.write_atomically(out / name, content.encode())
    return files["compare.md"]


def to_json(measured: Measured, machine: Mapping[str, Any]) -> str:
    """The rows and means as JSON: `scales`, `machine` and `errors`.

    `scales` maps scale -> method -> `images` (a list) and `mean`, each a dict of
    COLUMNS, in which a missing value is null.
    """
    scales = {
        str(scale): {
            method: {
                "images": [
                    {"name": name} | {c: value(row, c) for c in COLUMNS}
                    for name, row in rows.items()
                ],
                "mean": {column: mean(rows, column) for column in COLUMNS},
            }
            for method, rows in methods.items()
        }
        for scale, methods in measured.rows.items()
    }
    content = {"scales": scales, "machine": machine, "errors": measured.errors}
    return atomic_files.to_json(content)


def to_csv(measured: Measured) -> str:
    """One line for each scale, method and image; a missing value is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["scale", "method", "image", *COLUMNS])
    for scale, methods in measured.rows.items():
        for method, rows in methods.items():
            for name, row in rows.items():
                values = (value(row, column) for column in COLUMNS)
                cells = ["" if x is None else x for x in values]
                writer.writerow([scale, method, name, *cells])
    return text.getvalue()


def scores_of(measured: Measured) -> dict[str, Scores]:
    """The values as tables by title: `xS own`, and `xS plain` and `xS paper`."""
    found = {}
    for scale, methods in measured.rows.items():
        count = len({name for rows in methods.values() for name in rows})
        for kind, columns in _TABLES.items():
            values = {
                method: {
                    name: {metric: _number(row, c) for metric, c in columns.items()}
                    for name, row in rows.items()
                }
                for method, rows in methods.items()
            }
            protocol = kind if kind in PROTOCOLS else ""
            found[f"x{scale} {kind}"] = Scores(tuple(columns), values, count, protocol)
    return found


def _number(row: Row, column: str) -> float:
    found = value(row, column)
    return np.nan if found is None else found


def to_markdown(measured: Measured) -> str:
    """Three tables of means for each scale: the method's own terms, then the six."""
    parts, found = [], scores_of(measured)
    for scale, methods in measured.rows.items():
        parts.append(f"## x{scale}\n\n{_own_table(methods)}")
        parts += [scores_to_markdown(found[f"x{scale} {p}"]) for p in PROTOCOLS]
    return "\n".join([_INTRODUCTION, *parts])


def to_latex(measured: Measured) -> str:
    """The same tables in LaTeX, for the package booktabs, without times and memory."""
    return list_latex(scores_of(measured))


def _own_table(methods: Mapping[str, Mapping[str, Row]]) -> str:
    header = ["method", "images", *(title for _, title, _ in _OWN.values())]
    rows = []
    for method, images in methods.items():
        cells = [method, str(len(images))]
        for column, (_, _, digits) in _OWN.items():
            average = mean(images, column)
            cells.append("" if average is None else f"{average:.{digits}f}")
        rows.append(cells)
    return markdown_table(header, rows)


_INTRODUCTION = """\
# Methods side by side

Each pair was reduced to 1/S of its resolution as in training, fused and enlarged.
"Own" is against the method's own fusion of the high-resolution pair, its upper bound,
so a fusion rule is not punished for being another one.  Detail is of the 8-bit picture
against both high-resolution sources (docs/metrics.md).  Seconds and MB (growth of
resident memory) are of one picture, without compilation.  An empty cell has no value.
"""
