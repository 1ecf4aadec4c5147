"""Keeps compiled programs on disk, so that later starts of a command are fast."""

import os
from pathlib import Path

import jax

ENVIRONMENT = "HKDNET_CACHE"  # names the folder; if it is empty, nothing is kept
# A program that compiles faster is not worth a file; reading one takes a third of this.
_LEAST_SECONDS = 0.03


def enable() -> None:
    """Turns the cache on, in the folder `HKDNET_CACHE` or the user's cache folder.

    It must be called before anything is compiled.  A folder that jax was already given
    (`JAX_COMPILATION_CACHE_DIR`) is left alone.  If the folder cannot be written to,
    nothing is kept, because the cache only saves time.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = os.environ.get(ENVIRONMENT, _default())
    if not folder:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def _default() -> str:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(caches, "hkdnet_jax")
