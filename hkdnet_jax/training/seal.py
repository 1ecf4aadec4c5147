"""The seal of a checkpoint: the version of its form, and a checksum of its content.

Storage loses and changes bytes, and not every part of orbax's files is checked when it
is read. A seal is made from what is handed to be saved, and checked against what comes
back, so a run never trains on from anything else.
"""

import hashlib
import json
from typing import Any

import numpy as np

from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError

# Version 1 had no seal: its meta is the caller's alone.
VERSION = 2
_KEYS = {"version", "sha256", "meta"}


def sealed(state: Any, data: dict, meta: dict) -> dict:
    """The meta of a checkpoint with its seal, independent of the arguments.

    Args:
      state: pytree of arrays, complete or replicated on this process.
      data: JSON-serialisable state of the data iterator.
      meta: JSON-serialisable dict.

    Raises:
      TypeError: JSON has no form for something in `data` or `meta`.
    """
    meta = copy_json(meta)
    checksum = _checksum(state, copy_json(data), meta)
    return {"version": VERSION, "sha256": checksum, "meta": meta}


def check_version(stored: dict, folder: Any) -> None:
    """Raises UserError if a newer version of this program saved the checkpoint.

    Args:
      stored: what `sealed` returned, as it was read back.
      folder: the checkpoint, for the message.
    """
    version = stored.get("version")
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{folder} was saved by a newer version of this program (its form is "
            f"{version}, and this one reads up to {VERSION}): continue the run with "
            "that version, or choose another --workdir."
        )


def opened(state: Any, data: dict, stored: dict) -> dict:
    """The caller's meta of a checkpoint whose seal holds.

    Args:
      state: the arrays that were read back.
      data: the state of the data iterator that was read back.
      stored: what `sealed` returned, as it was read back. Without any of its keys it is
        the meta of version 1, which nothing can be said about.

    Raises:
      ValueError: the content is not what was sealed.
    """
    found = _KEYS & stored.keys()
    if not found:
        return stored
    if found != _KEYS or stored["version"] != VERSION:
        raise ValueError("its seal is broken")
    if stored["sha256"] != _checksum(state, data, stored["meta"]):
        raise ValueError("its content does not match its checksum")
    return stored["meta"]


def copy_json(value: dict) -> dict:
    """The value as JSON brings it back: a copy, with lists in place of tuples."""
    return json.loads(json.dumps(value))


def _checksum(state: Any, data: dict, meta: dict) -> str:
    """SHA-256 of names, shapes, dtypes and bytes of all arrays, and of the JSON."""
    digest = hashlib.sha256(json.dumps([data, meta], sort_keys=True).encode())
    leaves = trees.named_leaves(state)
    for name, leaf in sorted(leaves.items()):
        digest.update(f"{name} {trees.describe_array(leaf)}\n".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8))
    return digest.hexdigest()
