"""Yardsticks that nobody here tuned to, on the pictures of a comparison.

`natural` is the distance of a picture's statistics from undistorted ones (`natural`),
`people` counts the pedestrians that a detector finds in it (`people`).  Both are weak:
docs/comparison.md says what they cannot see.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.image_files import read_gray, to_8_bit
from hkdnet_jax.common.pair_files import Pair, read_pair
from hkdnet_jax.evaluation import natural, people
from hkdnet_jax.evaluation.markdown import markdown_table
from hkdnet_jax.evaluation.side_by_side import Measured, picture_file

NAMES = ("natural", "people")
# Scale -> method -> value by name.
Values = dict[float, dict[str, dict[str, float | int | None]]]


def measure(
    measured: Measured, pairs: Sequence[Pair], out: Path, names: Sequence[str]
) -> Values:
    """Measures the pictures that a comparison wrote, with a progress bar on stderr.

    Args:
      measured: what was compared; of a method and scale all pictures have rows.
      pairs: its pairs.
      out: its folder.
      names: out of NAMES.

    Returns:
      For each scale and method with a picture `images` (their number) and, as asked
      for, `natural` (a mean; None if a picture is too small for it); `people`, who are
      in the sources, `found`, how many of them are found in the pictures, and `extra`,
      boxes besides.

    Raises:
      UserError: the detector is missing, or a picture cannot be read.
    """
    detect = people.load() if "people" in names else None
    rows: dict[tuple[float, str], list[dict[str, float]]] = {}
    by_name = {pair.name: pair for pair in pairs}
    for name, pair in tqdm(by_name.items(), unit="pair", file=sys.stderr):
        # In the whole sources, whatever rows and columns a scale leaves out at the end:
        # the detector takes longer than everything else.
        seen = None if detect is None else _people(detect, read_pair(pair))
        for scale, methods in measured.rows.items():
            for method in (m for m, images in methods.items() if name in images):
                picture = read_gray(picture_file(out, scale, method, pair))
                row = {}
                if "natural" in names:
                    row["natural"] = natural.naturalness(picture)
                if detect is not None:
                    boxes = detect(picture)
                    found = people.hits(boxes, seen)
                    row |= {"people": len(seen), "found": found}
                    row["extra"] = len(boxes) - found
                rows.setdefault((scale, method), []).append(row)
    return {
        scale: {m: _whole(rows[scale, m]) for m in methods if (scale, m) in rows}
        for scale, methods in measured.rows.items()
    }


def write(values: Values, out: Path) -> str:
    """Writes yardsticks.json and .md to a folder, and returns the Markdown.

    Raises:
      UserError: a file cannot be written.
    """
    text = to_markdown(values)
    scales = {str(scale): methods for scale, methods in values.items()}
    content = atomic_files.to_json({"scales": scales})
    atomic_files.write_atomically(out / "yardsticks.json", content.encode())
    atomic_files.write_atomically(out / "yardsticks.md", text.encode())
    return text


def _people(detect: people.Detector, sources: Sequence[np.ndarray]) -> people.Boxes:
    """The people in either source."""
    found = [detect(to_8_bit(image)) for image in sources]
    return people.united(np.concatenate(found))


def _whole(rows: Sequence[Mapping[str, float]]) -> dict[str, float | int | None]:
    """The mean of `natural`, and sums of the rest."""
    whole: dict[str, Any] = {"images": len(rows)}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "natural":
            mean = float(np.mean(values))
            whole[name] = None if np.isnan(mean) else mean
        else:
            whole[name] = int(np.sum(values))
    return whole


_TITLES = {
    "images": "images",
    "natural": "distance from natural ↓",
    "people": "people in the sources",
    "found": "found ↑",
    "extra": "boxes besides ↓",
}


def to_markdown(values: Values) -> str:
    """A table for each scale, after what its columns mean."""
    rows_of_all = [row for methods in values.values() for row in methods.values()]
    asked = [n for n in NAMES if any(n in row for row in rows_of_all)]
    parts = [_INTRODUCTION, *(_MEANINGS[name] for name in asked)]
    for scale, methods in values.items():
        names = [n for n in _TITLES if any(n in row for row in methods.values())]
        rows = [
            [method, *("" if row[n] is None else _said(row[n]) for n in names)]
            for method, row in methods.items()
        ]
        titles = ["method", *(_TITLES[n] for n in names)]
        parts.append(f"## x{scale}\n\n{markdown_table(titles, rows)}")
    return "\n".join(parts)


def _said(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


_INTRODUCTION = """\
# Other yardsticks

Weak ones, to which nothing was tuned (docs/comparison.md).
"""
_MEANINGS = {
    "natural": """\
"Distance from natural" is that of a picture's statistics from those of undistorted
pictures (our model of our training pairs); it sees noise, blur and blocks.
""",
    "people": """\
People are what OpenCV's HOG detector finds in either high-resolution source; "found"
are those of them that it finds again in the picture.
""",
}
