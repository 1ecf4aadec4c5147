"""Draws docs/images/architecture.svg, and the lists of steps in docs/architecture.md.

    python docs/draw_architecture.py

The folders, what they are for and which of them import which are read from the code;
the order is that of tests/test_layout.py, which checks it. The stops of the two flows
are named below, and tests/docs/test_architecture.py checks that they are current.
"""

import ast
import html
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from test_layout import FLOW, folder_imports, trees  # noqa: E402

DRAWING = ROOT / "docs/images/architecture.svg"
PAGE = ROOT / "docs/architecture.md"
# Each stop: the module, what in it takes the data on, and what happens there.
BATCH = (
    (
        "hkdnet_jax.main",
        "main",
        "reads the configuration, and starts or continues a run",
    ),
    ("data_pipelines.loader", "train_batches", "crops uint8 pairs, seeded by the step"),
    ("hkdnet_jax.training.loop", "train", "takes a batch, calls the step, logs, saves"),
    ("hkdnet_jax.runtime.sharding", "put_batch", "spreads the batch over the devices"),
    (
        "hkdnet_jax.training.steps",
        "student_train_step",
        "one compiled program: flips, degrades, labels, learns",
    ),
    (
        "hkdnet_jax.common.arrays",
        "degrade",
        "makes the low-resolution pair, on the device",
    ),
    (
        "hkdnet_jax.models.teacher",
        "Teacher",
        "fuses the high-resolution pair: the label",
    ),
    (
        "hkdnet_jax.models.student",
        "Student",
        "fuses and enlarges the low-resolution pair",
    ),
    (
        "hkdnet_jax.losses.student",
        "student_phase2_loss",
        "compares image and features (Eq. 23)",
    ),
    (
        "hkdnet_jax.training.state",
        "apply_gradients",
        "updates the parameters, or skips a bad step",
    ),
    (
        "hkdnet_jax.training.checkpoint",
        "Checkpoints",
        "saves state, optimizer and place in the data",
    ),
)
PAIR = (
    ("hkdnet_jax.fuse", "main", "reads the flags"),
    (
        "hkdnet_jax.pretrained.arguments",
        "load_model",
        "loads the weights that come with the package, or a run's",
    ),
    ("hkdnet_jax.inference.folder", "fuse_files", "fuses pairs of one size together"),
    (
        "hkdnet_jax.inference.inputs",
        "read_inputs",
        "maps levels, palettes and views to [0, 1]",
    ),
    (
        "hkdnet_jax.common.image_files",
        "read",
        "decodes a file as its header describes it",
    ),
    (
        "hkdnet_jax.inference.programs",
        "choose",
        "whole, by rows over the devices, or in tiles",
    ),
    (
        "hkdnet_jax.model_files.call",
        "forward",
        "calls the network, compiled once for a size",
    ),
    ("hkdnet_jax.models.student", "Student", "fuses and enlarges"),
    (
        "hkdnet_jax.ops.position_attention",
        "position_attention",
        "attention of all positions, in linear memory",
    ),
    (
        "hkdnet_jax.common.atomic_files",
        "write_atomically",
        "writes the picture, complete or not at all",
    ),
)
_ROW, _TOP, _NAME, _CELL, _STEP = 26, 96, 500, 18, 22
_BATCH_AT = _NAME + _CELL * len(FLOW) + 20
_PAIR_AT = _BATCH_AT + _STEP * len(BATCH) + 30
_LETTERS = 68  # of a row
_INK, _BLUE, _ORANGE = "#222", "#0072B2", "#D55E00"


def folder_of(module: str) -> str:
    """The folder of FLOW that a module lies in."""
    return max((f for f in FLOW if f"{module}.".startswith(f"{f}.")), key=len)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" {more}>{html.escape(text)}</text>'


def _what(folder: str) -> str:
    """What a folder's docstring says first, as far as there is room."""
    if folder == "hkdnet_jax":
        return "the commands"
    text = re.split(r"[.,:;] |\n", ast.get_docstring(trees()[folder]) + "\n")[0]
    more = re.match(r"[^.\n]*", ast.get_docstring(trees()[folder]))[0]
    return (more if len(more) <= _LETTERS else text).rstrip(".")


def _row_y(folder: str) -> int:
    return _TOP + FLOW.index(folder) * _ROW


def _folders() -> list[str]:
    """A row for each folder: its name, what it holds, and a dot for each it imports."""
    parts = []
    for row, folder in enumerate(FLOW):
        y = _row_y(folder)
        short = folder.removeprefix("hkdnet_jax.") if "." in folder else folder
        if row % 2:
            parts.append(
                f'<rect y="{y - 17}" width="100%" height="{_ROW}" fill="#f2f2f2"/>'
            )
        parts.append(_text(8, y, short, 'font-weight="bold"'))
        parts.append(_text(116, y, _what(folder), 'font-size="10.5"'))
        x = _NAME + row * _CELL
        number = f'<text x="{x}" y="{_TOP - 24}" text-anchor="middle">{row + 1}</text>'
        parts += [
            number,
            f'<rect x="{x - 5}" y="{y - 9}" width="10" height="10" fill="{_INK}"/>',
        ]
        parts.append(_text(_NAME - 22, y, str(row + 1), 'text-anchor="end"'))
        for other in folder_imports(folder):
            x = _NAME + FLOW.index(other) * _CELL
            parts.append(
                f'<circle cx="{x}" cy="{y - 4}" r="4" fill="none" stroke="{_INK}"/>'
            )
    return parts


def _flow(stops: tuple, x: int, colour: str, title: str) -> list[str]:
    """Numbered stops in the rows of their folders, with lines between them."""
    places = [
        (x + _STEP * number, _row_y(folder_of(module)) - 4)
        for number, (module, _, _) in enumerate(stops)
    ]
    points = " ".join(f"{a},{b}" for a, b in places)
    parts = [f'<polyline points="{points}" fill="none" stroke="{colour}"/>']
    for number, (a, b) in enumerate(places, 1):
        parts.append(f'<circle cx="{a}" cy="{b}" r="7.5" fill="{colour}"/>')
        parts.append(
            _text(
                a,
                b + 3.5,
                str(number),
                'fill="#fff" font-size="10" text-anchor="middle"',
            )
        )
    parts.append(
        _text(
            x,
            _TOP - 24,
            title,
            f'fill="{colour}" font-weight="bold"',
        )
    )
    return parts


def drawing() -> str:
    """The text of the SVG file."""
    width, height = _PAIR_AT + _STEP * len(PAIR), _TOP + _ROW * len(FLOW)
    parts = [
        *_folders(),
        *_flow(BATCH, _BATCH_AT, _BLUE, "A training batch"),
        *_flow(PAIR, _PAIR_AT, _ORANGE, "A fused pair"),
        _text(
            8,
            24,
            "Folders, in the order in which data flows",
            'font-size="15" font-weight="bold"',
        ),
        _text(
            8, 44, "A circle: the folder of the row imports the folder of the column."
        ),
        _text(_BATCH_AT - 8, 44, "The numbers are the steps of the two lists."),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">'
        f'<rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def steps(stops: tuple) -> str:
    """The numbered list of a flow, in Markdown."""
    return "".join(
        f"{n}. `{module}.{name}` {what}.\n"
        for n, (module, name, what) in enumerate(stops, 1)
    )


def page() -> str:
    """The text of architecture.md, with its lists as they are now."""
    text = PAGE.read_text(encoding="utf-8")
    for name, stops in (("batch", BATCH), ("pair", PAIR)):
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{steps(stops)}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
