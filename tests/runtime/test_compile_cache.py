"""The cache of compiled programs: its folder, and what a command keeps in it."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.runtime import compile_cache


def folder_in_use(given=None, **environment):
    """What `enable` takes for the cache, with the folder that jax was given before."""
    before = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HKDNET_CACHE", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            jax.config.update("jax_compilation_cache_dir", given)
            compile_cache.enable()
            return jax.config.jax_compilation_cache_dir
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def test_which_folder(tmp_path):
    wanted, other = str(tmp_path / "a" / "b"), str(tmp_path / "other")
    assert folder_in_use(HKDNET_CACHE=wanted) == wanted
    assert folder_in_use(HKDNET_CACHE="") is None
    assert folder_in_use(XDG_CACHE_HOME=other) == os.path.join(other, "hkdnet_jax")
    home = {"XDG_CACHE_HOME": "", "HOME": other}
    assert folder_in_use(**home) == os.path.join(other, ".cache", "hkdnet_jax")
    assert folder_in_use(given=other, HKDNET_CACHE=wanted) == other


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder_in_use(HKDNET_CACHE=str(tmp_path / "file" / "cache")) is None


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
