"""Files that appear whole or not at all."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local


def write_atomically(path: Any, content: bytes) -> None:
    """Writes a file so that other readers see the old one or the whole new one.

    The folder is created when it is missing.

    Args:
      path: see `paths.as_path`.
      content: of the file.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    path = as_path(path)
    if not is_local(path):  # an object appears whole or not at all, and has no folder
        path.write_bytes(content)
        return
    # The process id keeps two processes from writing into one temporary file.
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
            f"{path} cannot be written ({error.strerror}): free some space there, or "
            "choose a folder that you may write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def to_json(value: Any) -> str:
    """JSON text, indented, in the given key order; NaN and infinity: ValueError."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def make_writable(folder: Path) -> None:
    """Makes `folder`, so that a bad one is found before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(
            f"{folder} is no folder that can be written to: choose another --out."
        )
