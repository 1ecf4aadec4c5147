"""Compiled programs kept on disk, so that a command's second start is fast."""

import os
from pathlib import Path

import jax

ENVIRONMENT = "HKDNET_CACHE"  # folder; empty: keep nothing
_LEAST_SECONDS = 0.03  # of compilation; to read a file takes about a third of it


def enable() -> None:
    """Switches the cache on, in `HKDNET_CACHE` or the user's cache folder.

    To be called before anything is compiled.  A folder that jax was told already
    (`JAX_COMPILATION_CACHE_DIR`) is left alone.  Where the folder cannot be written
    nothing is kept: the cache only saves time.
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
