"""The output streams of a command, whose faults must not end its work."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_NAMES = ("stdout", "stderr")


class _Guarded:
    """A text stream that goes on in silence once it cannot be written to.

    Attributes:
      error: the first error, or None.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, function: Any, *args: Any) -> None:
        try:
            function(*args)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.error = self.error or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Makes stdout and stderr safe inside the `with` block.

    Whatever their encoding, every character can be printed: as an escape such as
    ``\\u2191`` where the encoding lacks it.  A stream that is closed, a pipe that
    nobody reads and a full disk raise no exception; `broken` tells of them.
    """
    before = {name: getattr(sys, name) for name in _NAMES}
    for name, stream in before.items():
        if stream is None:  # closed before the process began
            stream = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Guarded(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            used = getattr(sys, name)
            used.flush()
            setattr(sys, name, stream)
            if stream is None:
                used.close()
            elif used.error is not None:
                _give_up(stream)


def _give_up(stream: TextIO) -> None:
    """Sends what the stream still holds nowhere, or Python would fail at its exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def broken() -> str | None:
    """Inside `guarded`: why stdout could not be written to, or None."""
    sys.stdout.flush()
    error = sys.stdout.error
    return None if error is None else getattr(error, "strerror", None) or str(error)
