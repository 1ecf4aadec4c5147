"""Writes files atomically: readers see a complete file or none."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local


def write_atomically(path: Any, content: bytes) -> None:
    """Writes a file so that readers see either the old one or the complete new one.

    The folder is created if it is missing.

    Args:
      path: see `paths.as_path`.
      content: the bytes of the file.

    Raises:
      UserError: the disk is full, or the folder cannot be written to.
    """
    path = as_path(path)
    if not is_local(path):  # an object store writes atomically and has no folders
        path.write_bytes(content)
        return
    # The process id keeps two processes from writing to the same temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free some disk space, or "
            "choose a folder that you may write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def to_json(value: Any) -> str:
    """Returns indented JSON text with the keys in the given order.

    Raises:
      TypeError: JSON has no form for something in the value.
      ValueError: a number is NaN or infinite.
    """
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def make_writable(folder: Path) -> None:
    """Creates `folder`, so that an unusable one is found before the work, not after.

    Raises:
      UserError: the folder cannot be created or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(
            f"{folder} is not a folder that can be written to: choose another --out."
        )
