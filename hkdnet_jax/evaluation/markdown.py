"""Tables in Markdown."""

from collections.abc import Sequence


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> str:
    """The lines of a table, each with its newline; `|` in a cell is escaped.

    Args:
      header: a title for each column.
      rows: cells, as many each as there are columns.
      text_columns: how many of the first columns hold text, which is aligned to the
        left; the others hold numbers, aligned to the right.
    """
    numbers = len(header) - text_columns
    rule = ["---"] * text_columns + ["---:"] * numbers
    lines = [_escaped(header), rule, *map(_escaped, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]
