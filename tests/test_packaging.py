"""What pip installs: the packages, and the locks against the ranges."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
# A lock, and the parts of pyproject.toml that it pins.
LOCKS = {
    "requirements.txt": (
        *("base", "train", "data", "report", "align", "video", "stablehlo", "hub"),
        "web",
    ),
    "requirements-onnx.txt": ("onnx",),
    "requirements-dev.txt": ("dev", "docs"),
    "requirements-gcs.txt": ("gcs",),
    "requirements-gpu.txt": ("gpu",),
    "requirements-tpu.txt": ("tpu",),
    "requirements-torch.txt": ("torch",),
}


def parsed(lines):
    """(name, extras, marker) -> requirement, of each line that holds one."""
    texts = (line.partition("#")[0].strip() for line in lines)
    found = [Requirement(text) for text in texts if text]
    return {
        (canonicalize_name(r.name), *sorted(r.extras), str(r.marker)): r for r in found
    }


def ranges(parts):
    lines = [x for part in parts for x in EXTRAS.get(part, PROJECT["dependencies"])]
    return parsed(lines)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_what_the_ranges_allow(lock):
    pins = parsed((ROOT / lock).read_text().splitlines())
    allowed = ranges(LOCKS[lock])
    assert pins.keys() == allowed.keys()
    for name, pin in pins.items():
        (pinned,) = pin.specifier
        assert pinned.operator == "=="
        assert allowed[name].specifier.contains(pinned.version), name


# What `make` installs, from one file with hashes.
INSTALLED = ("requirements.txt", "requirements-dev.txt", "requirements-onnx.txt")


def locked():
    """The requirements of the hashed lock, each with its hashes."""
    text = (ROOT / "requirements-lock.txt").read_text()
    entries = text.replace("\\\n", " ").splitlines()
    found = {}
    for entry in entries:
        if entry and not entry.startswith("#"):
            requirement, *hashes = entry.split("--hash=")
            found[Requirement(requirement)] = [one.strip() for one in hashes]
    return found


def test_the_hashed_lock_holds_every_pin():
    versions = {(canonicalize_name(r.name), str(r.specifier)) for r in locked()}
    for file in INSTALLED:
        for name, *_ in (pins := parsed((ROOT / file).read_text().splitlines())):
            pinned = [r for key, r in pins.items() if key[0] == name]
            assert {(name, str(r.specifier)) for r in pinned} <= versions, name


def test_everything_in_the_hashed_lock_is_pinned_and_hashed():
    for requirement, hashes in locked().items():
        (pinned,) = requirement.specifier
        assert pinned.operator == "==" and not requirement.url, requirement
        assert hashes, requirement
        for one in hashes:
            assert re.fullmatch("sha256:[0-9a-f]{64}", one), requirement


def test_the_hashed_lock_fits_every_python_and_names_no_server():
    text = (ROOT / "requirements-lock.txt").read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    for version in ("3.11", "3.12", "3.13"):
        about = {"python_version": version, "python_full_version": f"{version}.0"}
        here = [
            canonicalize_name(r.name)
            for r in locked()
            if r.marker is None or r.marker.evaluate(about)
        ]
        assert len(here) == len(set(here)), "one version of a package"
        assert {"jax", "numpy", "tensorflow-cpu", "onnx", "pytest"} <= set(here)


def test_make_installs_the_hashed_lock_and_nothing_else():
    makefile = (ROOT / "Makefile").read_text()
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    installs = [line.partition("pip install ")[2] for line in installs if "\t" in line]
    assert installs == [
        "--quiet --no-deps --require-hashes -r requirements-lock.txt",
        "--quiet --no-deps --no-build-isolation --editable .",
    ]


def test_every_extra_has_its_lock():
    assert set(EXTRAS) == {x for parts in LOCKS.values() for x in parts} - {"base"}


def test_every_range_has_a_lower_end():
    for part in ("base", *EXTRAS):
        for name, one in ranges([part]).items():
            assert ">=" in {s.operator for s in one.specifier}, name


def test_fusing_asks_for_no_training_package():
    names = {name for name, *_ in ranges(["base"])}
    training = {name for name, *_ in ranges(["train", "data"])}
    assert {"jax", "flax", "pillow"} <= names and not names & training


def test_the_installed_packages():
    patterns = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    here = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert "configs" in here
    installed = {n for n in here if any(fnmatch.fnmatch(n, p) for p in patterns)}
    assert installed == {"hkdnet_jax", "data_pipelines"}
    # setuptools leaves out a folder that is no package.
    for package in installed:
        for file in (ROOT / package).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file


def test_what_is_no_module_is_installed_too():
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    packages = {ROOT / name.replace(".", "/"): data[name] for name in data}
    known = {f for root, globs in packages.items() for g in globs for f in root.glob(g)}
    files = {f for f in (ROOT / "hkdnet_jax").rglob("*") if f.is_file()}
    files = {f for f in files if f.suffix not in (".py", ".pyc")}
    assert {"page.css", "viewer.js"} <= {f.name for f in files} and files <= known


def test_the_python_versions_agree():
    low, high = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    last = int(high) - 1
    makefile = (ROOT / "Makefile").read_text()
    assert f"(3, {low}) <= v <= (3, {last})" in makefile
    assert f"Python 3.{low} to 3.{last}" in (ROOT / "requirements.txt").read_text()
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py3{low}"
