"""Results in files of their own, so that a measurement that was cut goes on.

A row is a dict that JSON can represent.  Its file also holds a key, a text that says
what the row was measured of; a row of another key counts for none.
"""

import json
from pathlib import Path
from typing import Any

from hkdnet_jax.common import atomic_files

Row = dict[str, Any]


def save(file: Path, key: str, row: Row) -> None:
    """Writes a row, at once or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    content = atomic_files.to_json({"key": key} | row).encode()
    atomic_files.write_atomically(file, content)


def read(file: Path, key: str) -> Row | None:
    """The row that a file holds, with its key; None if there is none of this key."""
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) and row.get("key") == key else None
