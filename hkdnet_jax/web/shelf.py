"""Results that visitors may fetch for a while, under names that nobody can guess."""

import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

ROUTE = "results"
_SECONDS = 3600.0


class Shelf:
    """Files in a folder, each request's under a random token."""

    def __init__(self, folder: Path, seconds: float = _SECONDS):
        """Keeps each file for this many seconds."""
        self._folder = folder
        self._seconds = seconds
        self._put: dict[str, float] = {}
        self._lock = threading.Lock()

    def put(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Puts files on the shelf, and takes down those whose time is over.

        Returns:
          The address of each file by its name, relative to that of the page.
        """
        token = secrets.token_urlsafe(16)
        folder = self._folder / token
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        now = time.monotonic()
        with self._lock:
            over = [t for t, put in self._put.items() if now - put > self._seconds]
            for old in over:
                del self._put[old]
            self._put[token] = now
        for old in over:
            shutil.rmtree(self._folder / old, ignore_errors=True)
        return {name: f"{ROUTE}/{token}/{name}" for name in files}

    def path(self, address: str) -> Path:
        """The file at an address that `put` returned."""
        return self._folder / address.removeprefix(f"{ROUTE}/")

    def find(self, token: str, name: str) -> Path | None:
        """The file at an address, or None if there is none (any more)."""
        with self._lock:
            known = token in self._put
        path = self._folder / token / name
        return path if known and Path(name).name == name and path.is_file() else None
