"""Programs as StableHLO: equal to fuse_pair, alone with jax, and foreign files."""

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

pytestmark = pytest.mark.usefixtures("quick_compile")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fuse_stablehlo.py"
# Runs a script where no package can be imported but those that `pip install jax numpy
# flatbuffers` brings.
ALONE = """
import runpy, sys

ALLOWED = {"jax", "jaxlib", "numpy", "flatbuffers", "scipy", "opt_einsum", "ml_dtypes"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        own = root in sys.stdlib_module_names or root.startswith("_sysconfigdata")
        if root not in ALLOWED and not own:
            raise ModuleNotFoundError(name, name=root)

sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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


def test_the_example_needs_jax_and_numpy_alone(stablehlo_files, models, tmp_path):
    assert len(EXAMPLE.read_text().splitlines()) <= 20
    ir, vis = make_pair()
    np.save(tmp_path / "ir.npy", ir)
    np.save(tmp_path / "vis.npy", vis)
    files = [tmp_path / name for name in ("ir.npy", "vis.npy", "fused.npy")]
    command = [sys.executable, "-c", ALONE, EXAMPLE, stablehlo_files[2], *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = hkdnet_jax.fuse_pair(hkdnet_jax.load(models[2]), ir, vis)
    fused = np.load(files[2])
    assert fused.dtype == np.uint8 and fused.shape == expected.shape
    # A rounding error may move a level over a half.
    assert np.abs(fused.astype(int) - expected).max() <= 1


def test_the_block_of_that_test_blocks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import flax")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, script], capture_output=True, text=True
    )
    assert "ModuleNotFoundError: flax" in done.stderr


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
