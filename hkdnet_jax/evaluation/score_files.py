"""Writes files of scores; the suffix of a file's name decides its format."""

from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common.atomic_files import write_atomically
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation import tables
from hkdnet_jax.evaluation.tables import Scores

WRITERS = {
    ".json": tables.to_json,
    ".csv": tables.to_csv,
    ".md": tables.to_markdown,
}


def check(outs: Sequence[Path]) -> None:
    """Raises UserError unless all are file names with a suffix of WRITERS."""
    for out in outs:
        if out.suffix.lower() not in WRITERS:
            raise UserError(
                f"--out {out} has none of the suffixes {', '.join(WRITERS)}: end the "
                "name with one of them, which decides the format."
            )
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: give the name of a file.")


def write(scores: Scores, outs: Sequence[Path]) -> list[str]:
    """Writes the files; returns one sentence for each that could not be written."""
    failures = []
    for out in outs:
        try:
            text = WRITERS[out.suffix.lower()](scores)
            write_atomically(out, text.encode())
        except UserError as error:
            failures.append(str(error))
    return failures
