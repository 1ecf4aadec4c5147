"""The exception for mistakes that the user can fix, and how commands end on it."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from hkdnet_jax.common import streams

INTERRUPTED_EXIT = 130  # 128 + SIGINT, as a shell reports it
# The project's own packages, which no extra installs.
_OWN = ("hkdnet_jax", "data_pipelines", "configs")


class UserError(Exception):
    """A mistake that one sentence explains: what is wrong, where, and the remedy.

    Commands print the sentence without a stack trace and exit with code 1.
    """


def exit_code(
    run: Callable[[], int], interrupted: str = "every file written so far is complete"
) -> int:
    """Runs a command's work and returns the exit code for its `main`.

    Args:
      run: the work; returns an exit code.
      interrupted: the state that Ctrl-C leaves behind, as the end of a sentence.

    Returns:
      The exit code of `run`; or 1 after a UserError, after a file that the system
      refuses, or if stdout could not be written to; or 130 after Ctrl-C; each with one
      `error:` line on stderr.
    """
    with streams.guarded():
        code, problem = _attempt(run, interrupted)
        unwritten = streams.broken()
        if not problem and unwritten is not None:
            code = code or 1
            problem = f"standard output cannot be written to ({unwritten})."
        if problem:
            say("error", [problem])
    return code


def say(kind: str, sentences: Iterable[str]) -> None:
    """Prints sentences to stderr, a line each, as `error`, `warning` or `note`."""
    for sentence in sentences:
        print(f"{kind}: {sentence}", file=sys.stderr)


def _attempt(run: Callable[[], int], interrupted: str) -> tuple[int, str]:
    """The exit code of `run`, and a sentence if it was cut short."""
    try:
        return run(), ""
    except UserError as error:
        return 1, str(error)
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT, f"interrupted; {interrupted}."
    except OSError as error:
        if error.filename is None:
            raise
        return 1, (
            f"{os.fsdecode(error.filename)} cannot be used ({error.strerror}): check "
            "that it is there and that you may read and write it."
        )


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Turns the import of a missing package inside the `with` block into a UserError.

    Args:
      what: the task that needs the package, as the singular subject of a sentence.
      extra: the extra of pyproject.toml that installs the package.

    Raises:
      UserError: a package is missing; the message gives the `pip install` line.
      ModuleNotFoundError: a module of this project is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in _OWN:
            raise
        raise UserError(
            f"{what} needs packages that are not installed ({error}): run "
            f"{install_command(extra)}."
        ) from error


def install_command(extra: str) -> str:
    """Returns the `pip install` line that installs an extra of pyproject.toml."""
    return f"pip install 'hkdnet-jax[{extra}]'"


def either(items: Iterable[object]) -> str:
    """Joins alternatives, at least one, as in `2, 3 or 4`."""
    *most, last = map(str, items)
    return f"{', '.join(most)} or {last}" if most else last


def listing(items: Sequence[str], limit: int = 10) -> str:
    """Joins the first `limit` items with "; " and counts the others."""
    more = len(items) - limit
    shown = "; ".join(items[:limit])
    return f"{shown}; and {more} more" if more > 0 else shown
