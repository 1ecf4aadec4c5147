"""The documentation: it builds, its links lead somewhere, its notebook runs."""

import ast
import json
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

import hkdnet_jax
from hkdnet_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
).stdout.split()
PAGES = [ROOT / name for name in LISTED] or sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "launch").glob("*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(page):
    """The text of a page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ +(.+)$", text, flags=re.M)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.strip().replace(" ", "-") for title in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_on_the_site():
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^[\w/-]+$", index, flags=re.M))
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in DOCS.rglob("*.md")}
    pages = {p for p in pages if not p.startswith(("_build", "reference/modules"))}
    assert pages - {"index"} <= listed
    written = pages | {p.stem for p in DOCS.glob("*.ipynb")}
    assert {p for p in listed if not p.startswith("reference/modules/")} <= written


def test_the_site_builds_without_a_warning(tmp_path):
    """All but the reference of modules, which `make docs` builds too."""
    options = ["--fail-on-warning", "-q", "-D", "suppress_warnings=toc"]
    options += ["-D", "exclude_patterns=_build,reference/modules", "-d", tmp_path / "d"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, DOCS, tmp_path / "html"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "html/reference/api.html").read_text()
    for name in hkdnet_jax.__all__:
        assert f">{name}</span>" in page, name
    commands = (tmp_path / "html/reference/commands.html").read_text()
    assert all(f'>hkdnet</span> <span class="pre">{n}<' in commands for n in COMMANDS)
    assert "Launch" in (tmp_path / "html/launch.html").read_text()


def test_every_public_name_is_in_the_reference(tmp_path):
    """The reference takes all modules; what has no docstring would be missing."""
    for package in ("hkdnet_jax", "data_pipelines"):
        command = ["-m", "sphinx.ext.apidoc", "-q", "--separate", "--module-first"]
        subprocess.run(
            [sys.executable, *command, "-o", tmp_path, ROOT / package], check=True
        )
        text = "".join(page.read_text() for page in tmp_path.glob("*.rst"))
        modules = set(re.findall(r"automodule:: (\S+)", text))
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            assert name in modules or name.endswith("__main__"), name
            tree = ast.parse(file.read_text())
            for node in [tree, *tree.body]:
                public = not getattr(node, "name", "").startswith("_")
                kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
                if public and isinstance(node, kinds):
                    assert ast.get_docstring(node), (name, getattr(node, "name", ""))


def printed(cells):
    """What the cells of a notebook print or show, without pictures."""
    outputs = [o for c in cells for o in c.get("outputs", ())]
    assert not [o for o in outputs if o["output_type"] == "error"]
    return [
        "".join(o.get("text") or o["data"].get("text/plain", ""))
        for o in outputs
        if "image/png" not in o.get("data", {})
    ]


def test_the_notebook_runs_and_prints_what_it_holds(tmp_path):
    code = (
        "import sys, nbformat; from nbclient import NotebookClient\n"
        "book = nbformat.read(sys.argv[1], 4)\n"
        "NotebookClient(book, timeout=600, kernel_name='python3').execute()\n"
        "nbformat.write(book, sys.argv[2])\n"
    )
    source, out = DOCS / "notebook.ipynb", tmp_path / "out.ipynb"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", code, source, out],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env=environment,
    )
    held, found = (json.loads(file.read_text())["cells"] for file in (source, out))
    # Another processor may round the last digit of a figure otherwise.
    held, found = (re.split(r"(\d+\.\d+)", "".join(printed(c))) for c in (held, found))
    assert held[::2] == found[::2]
    for one, other in zip(held[1::2], found[1::2], strict=True):
        assert float(one) == pytest.approx(float(other), abs=0.11, rel=2e-3)
