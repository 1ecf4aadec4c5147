"""Writes files atomically: readers see a complete file or none."""

import contextlib
import errno
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local


def write_atomically(path: Any, content: bytes) -> None:
    """Writes a file so that readers see either the old one or the complete new one.

    The folder is created if it is missing.  Nothing is left behind but the file: in the
    main thread, SIGTERM waits until it is complete.

    Args:
      path: see `paths.as_path`.
      content: the bytes of the file.

    Raises:
      UserError: the disk is full, the folder cannot be written to, or the name is too
        long.
    """
    path = as_path(path)
    if not is_local(path):  # an object store writes atomically and has no folders
        path.write_bytes(content)
        return
    # The ids keep two writers from the same temporary file, and tell `remove_remains`
    # whose it is.  Its name is short, because that of the file may be as long as the
    # file system allows.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    with _terminated_later():
        _write(path, temporary, content)


def _write(path: Path, temporary: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        remedy = "choose a folder that you may write to"
        if error.errno == errno.ENAMETOOLONG:
            remedy = "choose a shorter name"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some disk space"
        raise UserError(
            f"{path} cannot be written ({error.strerror}): {remedy}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_remains(folder: Path) -> None:
    """Removes what killed writers left in a folder of this machine and below it.

    Files of processes that are alive stay, except for those of this process: no write
    of it may be under way.
    """
    for file in folder.rglob(".*.tmp"):
        found = re.fullmatch(r"\.(\d+)-\d+\.tmp", file.name)
        # In a container, a process often has the id of the killed one before it.
        own = found and int(found[1]) == os.getpid()
        if found and (own or not psutil.pid_exists(int(found[1]))):
            with contextlib.suppress(OSError):
                file.unlink()


@contextlib.contextmanager
def _terminated_later() -> Iterator[None]:
    """Delays SIGTERM, where it would end the process, to the end of the `with` block.

    Outside the main thread, where no handler can be set, nothing is delayed.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), signal.SIGTERM)


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
