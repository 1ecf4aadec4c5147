"""The exception for mistakes that the user can fix, and how commands end on it."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

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
      The exit code of `run`; or 1 after a UserError, or 130 after Ctrl-C, each with one
      `error:` line on stderr.
    """
    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"error: interrupted; {interrupted}.", file=sys.stderr)
        return INTERRUPTED_EXIT


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


def listing(items: Sequence[str], limit: int = 10) -> str:
    """Joins the first `limit` items with "; " and counts the others."""
    more = len(items) - limit
    shown = "; ".join(items[:limit])
    return f"{shown}; and {more} more" if more > 0 else shown
