"""Tables in Markdown."""

from collections.abc import Sequence


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> str:
    """The text of a table, which ends with a newline; `|` in a cell is escaped.

    Args:
      header: the titles of the columns.
      rows: the cells of each row, one for each column.
      text_columns: number of leading columns that hold text, which is aligned to the
        left; the others hold numbers, which are aligned to the right.
    """
    numbers = len(header) - text_columns
    rule = ["---"] * text_columns + ["---:"] * numbers
    lines = [_escaped(header), rule, *map(_escaped, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]
