"""Rows as lines of a table on stdout."""

import dataclasses
from collections.abc import Sequence

from hkdnet_jax.measuring.measure import Row


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table on stdout.

    Attributes:
      title: its heading.
      key: of a row; one that lacks it, or has None there, gets a dash.
      width: in characters.
      decimals: of numbers that are no integers.
      factor: from the row's unit to the heading's.
    """

    title: str
    key: str
    width: int
    decimals: int = 1
    factor: float = 1

    def cell(self, row: Row) -> str:
        """The row's entry."""
        value = row.get(self.key)
        if value is None:
            return f"{'-':>{self.width}}"
        if not isinstance(value, str):
            value = value * self.factor
        if isinstance(value, float):
            value = f"{value:.{self.decimals}f}"
        return f"{value:>{self.width}}"


def header(columns: Sequence[Column]) -> str:
    """The headings."""
    return " ".join(f"{column.title:>{column.width}}" for column in columns)


def line(columns: Sequence[Column], row: Row) -> str:
    """A row as text under `header`."""
    return " ".join(column.cell(row) for column in columns)


def listing(row: Row) -> str:
    """A row that is no line of a table: `key value, key value`."""
    texts = (f"{v:.4g}" if isinstance(v, float) else v for v in row.values())
    return ", ".join(f"{k} {text}" for k, text in zip(row, texts, strict=True))
