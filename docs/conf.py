"""Sphinx builds the documentation site from this folder: `make docs`."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

import hkdnet_jax  # noqa: E402
from hkdnet_jax.__main__ import COMMANDS  # noqa: E402

project = "hkdnet-jax"
author = "the authors of hkdnet-jax"
version = release = hkdnet_jax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "reference/modules/*/modules.rst"]
nb_execution_mode = "off"  # the notebook holds its outputs; a test runs it
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
default_role = "code"
html_theme = "furo"
html_title = f"hkdnet-jax {version}"

# The reference of all modules, which is written into reference/modules at each build.
apidoc_modules = [
    {
        "path": str(ROOT / package),
        "destination": f"reference/modules/{package}",
        "separate_modules": True,
        "module_first": True,
        "exclude_patterns": [str(ROOT / "hkdnet_jax/__main__.py")],
    }
    for package in ("hkdnet_jax", "data_pipelines")
]
autodoc_member_order = "bysource"
# A name is documented where it is defined, and api.md has those of the package.
autodoc_default_options = {"ignore-module-all": True}
napoleon_use_ivar = True  # fields of dataclasses are documented once

# Pages of the site whose text is a file of the repository.
PAGES = {
    "launch": ROOT / "launch/README.md",
    "model-card": ROOT / "hkdnet_jax/pretrained/README.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#]+)(#[^)]*)?\)")


def _read_source(app: object, name: str, source: list[str]) -> None:
    """Fills pages from their files, and turns links out of docs/ into the site's."""
    file = DOCS / f"{name}.md"
    if name in PAGES:
        file = PAGES[name]
        source[0] = file.read_text(encoding="utf-8")
    if name == "reference/commands":
        rows = (
            f"| `hkdnet {k}` | `{m}` | {what} |\n" for k, (m, what) in COMMANDS.items()
        )
        source[0] += "".join(rows)
    here = (DOCS / f"{name}.md").parent

    def on_site(link: re.Match) -> str:
        text, target, anchor = link.groups()
        path = Path(os.path.normpath(file.parent / target))
        pages = [page for page, of in PAGES.items() if of == path]
        if pages:
            path = DOCS / f"{pages[0]}.md"
        if not path.is_relative_to(DOCS):
            return text  # the site holds no other file of the repository
        return f"[{text}]({os.path.relpath(path, here)}{anchor or ''})"

    if file.suffix == ".md" and file.exists():
        source[0] = _LINK.sub(on_site, source[0])


def _as_text(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Takes docstrings as plain text with code in backticks, not as RST."""
    found = []
    for line in lines:
        parts = line.split("`")
        parts[::2] = (re.sub(r"([|*])", r"\\\1", part) for part in parts[::2])
        indented = line.startswith("  ")
        before = next((x for x in reversed(found) if x.strip()), "")
        # In a module, what is indented is a formula, a command or a list of files.
        if what == "module" and indented and not before.startswith("  "):
            found += ["", "::", ""]
        literal = what == "module" and indented
        found.append(line if literal else "`".join(parts))
    lines[:] = found


def setup(app: object) -> None:
    """Connects the two functions above."""
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _as_text, priority=400)  # before napoleon
