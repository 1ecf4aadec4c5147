"""Reads a list of pairs: a CSV file whose columns are ir, vis and, if given, out."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePath

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.common.pair_files import Pair

_COLUMNS = ["ir", "vis", "out"]


@dataclass(frozen=True)
class Listed:
    """One line of a list.

    Attributes:
      pair: its files; its name is that of `out` without the suffix.
      out: where the fused picture goes, relative to the folder of all outputs and
        inside of it; None if the line leaves that open.
    """

    pair: Pair
    out: PurePath | None


def read_pair_list(path: Path) -> tuple[list[Listed], list[str]]:
    """Reads a list of pairs.

    Each line holds the infrared file, the visible file and, if wanted, the output.
    Inputs are relative to the list's folder, or absolute. A first line `ir,vis,out` or
    `ir,vis` is a heading. Without an output the stem of the infrared file names it.

    Returns:
      The pairs in the order of the list, and a sentence for each line that cannot be
      used.

    Raises:
      UserError: the file cannot be read, or lists no pair.
    """
    try:
        # Names that are no UTF-8 text keep their bytes; Excel begins with a mark.
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        lines = list(enumerate(csv.reader(io.StringIO(text)), start=1))
    except (OSError, csv.Error) as error:
        detail = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path} cannot be read as a list of pairs ({detail}): give a CSV file "
            "with the columns ir, vis and, if wanted, out."
        ) from error
    lines = [(n, [x.strip() for x in row]) for n, row in lines if any(row)]
    if lines and lines[0][1] in (_COLUMNS, _COLUMNS[:2]):
        del lines[0]
    found, problems = {}, []
    for number, cells in lines:
        try:
            one = _read_line(path, cells)
            if one.pair.name in found:
                raise ValueError(
                    f"has the output {one.pair.name}, as an earlier line has: give "
                    "another in the column out"
                )
            found[one.pair.name] = one
        except ValueError as error:
            problems.append(f"line {number} of {path} {error}")
    if not found and not problems:
        raise UserError(
            f"{path} lists no pair: write lines such as ir/1.png,vis/1.png."
        )
    return list(found.values()), problems


def _read_line(path: Path, cells: list[str]) -> Listed:
    """Reads one line.

    Raises:
      ValueError: it cannot be used; the message follows "line N of FILE".
    """
    if len(cells) not in (2, 3) or not all(cells[:2]):
        raise ValueError("must hold ir,vis or ir,vis,out: correct it")
    ir, vis = (path.parent / cell for cell in cells[:2])
    if ir == vis:
        raise ValueError(f"gives {cells[0]} as both ir and vis: correct it")
    if len(cells) == 2 or not cells[2]:
        return Listed(Pair(ir.stem, ir, vis), None)
    out = PurePath(cells[2])
    if out.is_absolute() or ".." in out.parts:
        raise ValueError(
            f"puts its output {cells[2]} outside of the folder of the outputs: give a "
            "path inside of it"
        )
    named = out.suffix.lower() in IMAGE_SUFFIXES
    return Listed(Pair(str(out.with_suffix("") if named else out), ir, vis), out)
