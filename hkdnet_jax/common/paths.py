"""Paths that a user gives, on this machine or in an object store."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hkdnet_jax.common.errors import UserError, install_command

# Where TensorFlow is installed, `etils.epath` would leave addresses to its client,
# which no test can lead to an imitation of a store.  It is read at the first path.
os.environ.setdefault("EPATH_USE_TF", "false")
# The package that reads an address, by its kind, and what installs it.
_CLIENTS = {
    "gs": ("gcsfs", install_command("gcs")),
    "s3": ("s3fs", "pip install s3fs"),
}


def as_path(path: Any) -> Any:
    """Returns a path as an object with pathlib's methods, whatever storage it is on.

    Args:
      path: text such as `runs/x2` or `gs://bucket/runs/x2`, or such an object, which
        is returned unchanged.

    Returns:
      A `pathlib.Path`, or an `etils.epath.Path` for an address of an object store.

    Raises:
      UserError: `etils.epath` does not know this kind of address, or the package that
        reads it is missing.
    """
    if not isinstance(path, str):
        return path
    if "://" not in path:
        return Path(path)
    # Imported only here: fusing needs no address, and these imports are slow.
    from etils import epath

    _prepare_client(path)
    try:
        return epath.Path(path)
    except KeyError as error:
        raise UserError(
            f"{path} is not an address that can be read: give gs://BUCKET/PATH, "
            "s3://BUCKET/PATH, or a folder on this machine."
        ) from error


def _prepare_client(address: str) -> None:
    """Raises UserError if the package that reads such an address is missing."""
    kind = address.partition("://")[0]
    if kind not in _CLIENTS:
        return
    package, install = _CLIENTS[kind]
    try:
        importlib.import_module(package)
        # By default, a listing is kept, and then lacks what others write: TensorStore
        # the arrays of a checkpoint, or the other processes of a run.
        config = importlib.import_module("fsspec.config").conf.setdefault(kind, {})
        config.setdefault("use_listings_cache", False)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{address} needs packages that are not installed ({error}): run {install}."
        ) from error


def is_local(path: Any) -> bool:
    """Returns whether a path is in this machine's file system."""
    return isinstance(path, Path)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Names of paths: their last parts, or all of them if two of those are equal."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else list(map(str, paths))
