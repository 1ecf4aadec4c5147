"""Starts a command's process again with settings of the C library that pay.

A train step frees and takes hundreds of megabytes many times a second.  By default
glibc gives such memory back to Linux each time, which then hands out zeroed pages of
4 kB, one page fault after the other.  These settings are read when a process starts,
so they cannot be made from within; docs/performance.md has what they gain.

Only commands call this, never an import of the package.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

SWITCH = "HKDNET_TUNE"  # 0: leave the process as it was started
MARK = "HKDNET_TUNED"  # set in a process that was started again, and in its children
# Memory up to 4 GiB comes from the heap, of which up to 16 GiB stay with the process,
# and which asks for pages of 2 MB.
SETTINGS = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
}


def tune() -> None:
    """Starts this process again with SETTINGS, at most once.

    It keeps its number, its arguments and its open files.  Nothing happens on other
    systems than Linux with glibc, with HKDNET_TUNE=0, or where all of these variables
    are set already; one that is set keeps its value.
    """
    environment = tuned(os.environ, _uses_glibc())
    if environment is not None and sys.executable and sys.orig_argv:
        restart(sys.orig_argv, environment)


def tuned(environment: Mapping[str, str], glibc: bool) -> dict[str, str] | None:
    """The environment to start again with, or None if nothing is to be gained.

    Args:
      environment: that of the process.
      glibc: whether its C library is glibc.
    """
    missing = {k: v for k, v in SETTINGS.items() if k not in environment}
    off = environment.get(SWITCH) == "0" or MARK in environment
    if off or not glibc or not missing:
        return None
    return {**environment, **missing, MARK: "1"}


def restart(
    argv: list[str],
    environment: Mapping[str, str],
    execute: Callable[..., Any] = os.execve,
) -> None:
    """Replaces this process by one with the same command line.

    If the system refuses, this one goes on as it is.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        execute(sys.executable, [sys.executable, *argv[1:]], dict(environment))
    except OSError:
        return


def _uses_glibc() -> bool:
    if sys.platform != "linux":
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):  # musl does not know the name
        return False
