"""The cache of compiled programs, in processes of its own: jax opens it only once."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

PROGRAM = """
import jax
from hkdnet_jax.runtime import compile_cache
compile_cache.enable()
print(jax.config.jax_compilation_cache_dir)
"""


def folder_in_use(**environment):
    """What a process with this environment takes for its cache; "None" for none."""
    inherited = {k: v for k, v in os.environ.items() if k != "HKDNET_CACHE"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_which_folder(tmp_path):
    wanted, other = str(tmp_path / "a" / "b"), str(tmp_path / "other")
    assert folder_in_use(HKDNET_CACHE=wanted) == wanted
    assert folder_in_use(HKDNET_CACHE="") == "None"
    assert folder_in_use(XDG_CACHE_HOME=other) == os.path.join(other, "hkdnet_jax")
    home = {"XDG_CACHE_HOME": "", "HOME": other}
    assert folder_in_use(**home) == os.path.join(other, ".cache", "hkdnet_jax")
    both = {"HKDNET_CACHE": wanted, "JAX_COMPILATION_CACHE_DIR": other}
    assert folder_in_use(**both) == other


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder_in_use(HKDNET_CACHE=str(tmp_path / "file" / "cache")) == "None"


@pytest.mark.parametrize("folder", ["cache", ""])
def test_a_command_keeps_its_programs(tmp_path, folder):
    rng = np.random.default_rng(0)
    for name in ("ir", "vis"):
        image = rng.integers(0, 256, (48, 50), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    cache = str(tmp_path / folder) if folder else ""
    command = [sys.executable, "-m", "hkdnet_jax.fuse", "--scale", "1"]
    for name in ("ir", "vis", "out"):
        command += [f"--{name}", str(tmp_path / f"{name}.png")]
    environment = os.environ | {"HKDNET_CACHE": cache}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    kept = list((tmp_path / "cache").glob("jit_*"))
    assert bool(kept) == bool(folder)
