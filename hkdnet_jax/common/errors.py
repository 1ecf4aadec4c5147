"""The one exception that means "the user can mend this", and how commands end on it."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

INTERRUPTED_EXIT = 130  # 128 + SIGINT, what a shell reports
# Packages that no extra brings.
_OWN = ("hkdnet_jax", "data_pipelines", "configs")


class UserError(Exception):
    """A mistake that one sentence explains: what is wrong, where, and the remedy.

    Commands print the sentence and exit with code 1; no stack trace.
    """


def exit_code(
    run: Callable[[], int], interrupted: str = "what was written is whole"
) -> int:
    """Runs a command's work; what its `main` returns.

    Args:
      run: the work; returns the exit code.
      interrupted: what Ctrl-C has left behind, for the sentence.

    Returns:
      Of `run`, or 1 after a UserError, or 130 after Ctrl-C, each with one `error:` line
      on stderr.
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
    """Turns a package missing inside the `with` block into a UserError.

    Args:
      what: what cannot be done without it, as the subject of a sentence, singular.
      extra: the extra of pyproject.toml that brings the package.

    Raises:
      UserError: an import finds no such package; with the `pip install` line.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in _OWN:
            raise
        raise UserError(
            f"{what} needs packages that are not installed ({error}): "
            f"{install_command(extra)}."
        ) from error


def install_command(extra: str) -> str:
    """The `pip install` line that brings an extra of pyproject.toml."""
    return f"pip install 'hkdnet-jax[{extra}]'"


def listing(items: Sequence[str], limit: int = 10) -> str:
    """Joins `items` with "; ", and counts those beyond the first `limit`."""
    more = len(items) - limit
    shown = "; ".join(items[:limit])
    return f"{shown}; and {more} more" if more > 0 else shown
