"""Programs as StableHLO: equal to fuse_pair, alone with jax, and foreign files."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import make_pair

import hkdnet_jax
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.exported import stablehlo
from hkdnet_jax.exported.running import open_file

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fuse_stablehlo.py"
# What `pip install jax numpy flatbuffers` brings.
PACKAGES = ("jax", "jaxlib", "numpy", "flatbuffers", "scipy", "opt_einsum", "ml_dtypes")


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (17, 23), (40, 31)])
def test_equals_fuse_pair(scale, size, stablehlo_files, expected):
    inputs, picture = expected(scale, *size)
    fused = open_file(stablehlo_files[scale]).run(*inputs)
    assert fused.dtype == np.float32 and fused.shape == picture.shape
    np.testing.assert_allclose(fused, picture, atol=1e-5)


def test_any_batch_and_any_platform(stablehlo_files, expected):
    inputs, picture = expected(2, 17, 23, 3)
    opened = open_file(stablehlo_files[2])
    assert (opened.kind, opened.scale) == ("stablehlo", 2)
    np.testing.assert_allclose(opened.run(*inputs), picture, atol=1e-5)
    exported, _ = stablehlo.read(stablehlo_files[2])
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.fixture
def alone(tmp_path):
    """Runs a script in an interpreter that finds PACKAGES and no other."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in PACKAGES:
        package = Path(importlib.util.find_spec(name).origin).parent
        (folder / name).symlink_to(package)
        libraries = package.with_name(f"{name}.libs")
        if libraries.is_dir():
            (folder / libraries.name).symlink_to(libraries)
    start = (
        f"import runpy, sys; sys.path.append({str(folder)!r}); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    def run(*args):
        command = [sys.executable, "-I", "-S", "-c", start, *map(str, args)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_the_example_needs_jax_and_numpy_alone(
    stablehlo_files, models, tmp_path, alone
):
    assert len(EXAMPLE.read_text().splitlines()) <= 20
    ir, vis = make_pair()
    np.save(tmp_path / "ir.npy", ir)
    np.save(tmp_path / "vis.npy", vis)
    files = [tmp_path / name for name in ("ir.npy", "vis.npy", "fused.npy")]
    done = alone(EXAMPLE, stablehlo_files[2], *files)
    assert done.returncode == 0, done.stderr
    expected = hkdnet_jax.fuse_pair(hkdnet_jax.load(models[2]), ir, vis)
    fused = np.load(files[2])
    assert fused.dtype == np.uint8 and fused.shape == expected.shape
    # A rounding error may move a level over a half.
    assert np.abs(fused.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("package", ["flax", "hkdnet_jax"])
def test_other_packages_are_not_found_there(package, tmp_path, alone):
    script = tmp_path / "script.py"
    script.write_text(f"import {package}")
    assert f"No module named '{package}'" in alone(script).stderr


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(share, stablehlo_files, tmp_path):
    content = stablehlo_files[2].read_bytes()
    assert_refused(content[: int(share * len(content))], tmp_path, "is damaged")


def test_foreign_files_are_refused(tmp_path):
    assert_refused(b"not StableHLO at all, but some text", tmp_path, "is damaged")
    other = jax.export.export(jax.jit(lambda x: 2 * x))(jnp.ones(3))
    assert_refused(bytes(other.serialize()), tmp_path, "of another program")


def assert_refused(content, folder, says):
    file = folder / "x.stablehlo"
    file.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        open_file(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fuse_stablehlo.py", "fuse_web.mjs"])
def test_the_documentation_shows_the_examples_as_they_are(name):
    example = (ROOT / "examples" / name).read_text()
    assert f"\n{example.strip()}\n```" in (ROOT / "docs" / "export.md").read_text()
