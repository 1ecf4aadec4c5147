"""What all figures share: their width, their colours, and how they become a file.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), which people
with any of the usual kinds of colour blindness can tell apart. Each series also has its
own line and marker, so that a print in black and white can be read.
"""

import functools
import io
from collections.abc import Callable
from typing import Any

from hkdnet_jax.common.errors import needs_extra

COLUMN = 3.5  # inches, the width of a printed column
PAGE = 7.16  # inches, the width of both columns
FORMATS = (".png", ".pdf", ".svg")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 2.5,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.hashsalt": "hkdnet",  # equal figures are equal files
}


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function that draws a figure: in this style, or a sentence.

    The function raises UserError where matplotlib is not installed.
    """

    @functools.wraps(draw)
    def in_style(*args: Any, **kwargs: Any) -> Any:
        with needs_extra("Drawing figures", "report"):
            import matplotlib
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return in_style


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, in inches; it needs no screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def panels(
    count: int, columns: int, width: float, side: float, sharex: bool = False
) -> tuple[Any, list]:
    """A figure with a grid of panels, row by row.

    Args:
      count: number of panels, at least 1.
      columns: panels in a row, at most.
      width: width of the figure in inches.
      side: height of a row in inches.
      sharex: whether all have the same x axis.

    Returns:
      The figure and its panels.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = new_figure(width, side * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)
    for unused in grid[count:]:
        unused.remove()
    for panel in grid[max(0, count - columns) : count]:
        panel.tick_params(labelbottom=True)  # also above a place without a panel
    return figure, grid[:count]


def log_axis(axis: Any, span: float) -> None:
    """Makes an axis logarithmic, with a few plain numbers for its ticks.

    Args:
      axis: `panel.xaxis` or `panel.yaxis`.
      span: the largest value over the smallest.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    steps = (1, 2, 5) if span < 50 else (1,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))


def series(number: int) -> dict[str, Any]:
    """Colour, line and marker of the series of this number, as arguments of `plot`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def name_series(figure: Any, panel: Any) -> None:
    """Names the series of a panel above the figure, unless there is only one."""
    handles, labels = panel.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=min(len(labels), 3 if figure.get_figwidth() < PAGE else 5),
        )


def encode(figure: Any, suffix: str) -> bytes:
    """The bytes of a figure's file; the same figure always gives the same bytes.

    Args:
      figure: a matplotlib Figure.
      suffix: one of FORMATS.
    """
    import matplotlib

    file = io.BytesIO()
    kind = suffix.lower().lstrip(".")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format=kind, metadata=dates.get(kind, {}))
    return file.getvalue()
