"""The drawing and the lists of architecture.md are those of the code."""

import ast
import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_layout import FLOW, folder_imports, trees

DOCS = Path(__file__).parents[2] / "docs"
spec = importlib.util.spec_from_file_location("draw", DOCS / "draw_architecture.py")
draw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw)


def test_the_drawing_is_current():
    assert draw.DRAWING.read_text() == draw.drawing(), (
        "run python docs/draw_architecture.py"
    )


def test_the_lists_are_current():
    assert draw.PAGE.read_text() == draw.page(), "run python docs/draw_architecture.py"


def test_the_drawing_shows_every_folder_and_import():
    root = ElementTree.fromstring(draw.drawing())
    words = [x.text for x in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {f.removeprefix("hkdnet_jax.") for f in FLOW} <= set(words)
    circles = [
        x
        for x in root.iter("{http://www.w3.org/2000/svg}circle")
        if x.get("fill") == "none"
    ]
    assert len(circles) == sum(len(folder_imports(folder)) for folder in FLOW) > 50


def _names(tree):
    """The names that a module uses, its own and those of what it imports."""
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    used |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return used | {
        alias.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom)
        for alias in n.names
    }


@pytest.mark.parametrize("flow", [draw.BATCH, draw.PAIR], ids=["batch", "pair"])
def test_each_stop_exists_and_is_reached(flow):
    """A file of the flow's folders uses what a stop is."""
    folders = {draw.folder_of(module) for module, _, _ in flow}
    for number, (module, name, what) in enumerate(flow):
        defined = {n.name for n in trees()[module].body if hasattr(n, "name")}
        assert name in defined, (module, name)
        assert what and not what.endswith(".")
        if number:
            callers = [m for m in trees() if draw.folder_of(m) in folders]
            assert any(name in _names(trees()[m]) for m in callers), (module, name)
