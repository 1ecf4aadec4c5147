"""Paths that a user gives: of this machine, or of an object store."""

from pathlib import Path
from typing import Any

from hkdnet_jax.common.errors import UserError


def as_path(path: Any) -> Any:
    """A path as an object with pathlib's methods, on whatever it lies.

    Args:
      path: text such as `runs/x2` or `gs://bucket/runs/x2`, or such an object, which
        comes back as it is.

    Returns:
      A `pathlib.Path`, or for an address with `://` an `etils.epath.Path`.

    Raises:
      UserError: an address of a kind that `etils.epath` does not know.
    """
    if not isinstance(path, str):
        return path
    if "://" not in path:
        return Path(path)
    # Only here: fusing needs no address, and this import is slow.
    from etils import epath

    try:
        return epath.Path(path)
    except KeyError as error:
        raise UserError(
            f"{path} is no address that can be read: give gs://BUCKET/PATH, "
            "s3://BUCKET/PATH, or a folder of this machine."
        ) from error


def is_local(path: Any) -> bool:
    """Whether a path lies in this machine's file system, with renames and locks."""
    return isinstance(path, Path)
