"""The package itself: lazy names, their types, and the version."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import hkdnet_jax
from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files.model import Model

ROOT = Path(__file__).parents[1]


def test_the_names():
    assert hkdnet_jax.load is pretrained.load
    assert hkdnet_jax.fuse_pair is fuse_pair
    assert hkdnet_jax.Model is Model
    assert hkdnet_jax.UserError is UserError
    assert set(hkdnet_jax.__all__) <= set(dir(hkdnet_jax))
    for name in hkdnet_jax.__all__:
        assert getattr(hkdnet_jax, name) is not None
    with pytest.raises(AttributeError, match=r"hkdnet_jax.*fuse_pears"):
        _ = hkdnet_jax.fuse_pears


def test_the_import_loads_nothing_else():
    code = """
import sys
before = set(sys.modules)
import hkdnet_jax
assert {"load", "fuse_pair", "Model", "UserError"} <= set(dir(hkdnet_jax))
print(*set(sys.modules) - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "hkdnet_jax" in roots
    assert roots <= {"hkdnet_jax", *sys.stdlib_module_names}
    assert not [n for n in done.stdout.split() if n.startswith("hkdnet_jax.")]


def test_the_version_of_a_checkout_that_is_not_installed(monkeypatch):
    def missing(name):
        assert name == "hkdnet-jax"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert hkdnet_jax._version() == stated


def test_type_checkers_are_told():
    assert (ROOT / "hkdnet_jax" / "py.typed").is_file()
