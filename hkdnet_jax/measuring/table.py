"""Formats rows as lines of a table on stdout."""

import dataclasses
from collections.abc import Sequence

from hkdnet_jax.measuring.measure import Row


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table on stdout.

    Attributes:
      title: heading of the column.
      key: key of the row's entry; a missing entry, or None, is shown as a dash.
      width: width in characters.
      decimals: number of decimals of floating-point numbers.
      factor: factor from the unit of the row to that of the heading.
    """

    title: str
    key: str
    width: int
    decimals: int = 1
    factor: float = 1

    def cell(self, row: Row) -> str:
        """The row's entry in this column, aligned to the right."""
        value = row.get(self.key)
        if value is None:
            return f"{'-':>{self.width}}"
        if not isinstance(value, str):
            value = value * self.factor
        if isinstance(value, float):
            value = f"{value:.{self.decimals}f}"
        return f"{value:>{self.width}}"


def header(columns: Sequence[Column]) -> str:
    """The line of headings."""
    return " ".join(f"{column.title:>{column.width}}" for column in columns)


def line(columns: Sequence[Column], row: Row) -> str:
    """A row as a line that is aligned with `header`."""
    return " ".join(column.cell(row) for column in columns)


def listing(row: Row) -> str:
    """A row as text outside a table: `key value, key value`."""
    texts = (f"{v:.4g}" if isinstance(v, float) else v for v in row.values())
    return ", ".join(f"{k} {text}" for k, text in zip(row, texts, strict=True))
