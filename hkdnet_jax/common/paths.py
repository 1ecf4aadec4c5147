"""Paths that a user gives, on this machine or in an object store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hkdnet_jax.common.errors import UserError


def as_path(path: Any) -> Any:
    """Returns a path as an object with pathlib's methods, whatever storage it is on.

    Args:
      path: text such as `runs/x2` or `gs://bucket/runs/x2`, or such an object, which
        is returned unchanged.

    Returns:
      A `pathlib.Path`, or an `etils.epath.Path` for an address of an object store.

    Raises:
      UserError: `etils.epath` does not know this kind of address.
    """
    if not isinstance(path, str):
        return path
    if "://" not in path:
        return Path(path)
    # Imported only here: fusing needs no address, and this import is slow.
    from etils import epath

    try:
        return epath.Path(path)
    except KeyError as error:
        raise UserError(
            f"{path} is not an address that can be read: give gs://BUCKET/PATH, "
            "s3://BUCKET/PATH, or a folder on this machine."
        ) from error


def is_local(path: Any) -> bool:
    """Returns whether a path is in this machine's file system."""
    return isinstance(path, Path)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Names of paths: their last parts, or all of them if two of those are equal."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else list(map(str, paths))
