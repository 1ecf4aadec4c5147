"""Scores of fusion methods as JSON, CSV, Markdown, LaTeX, HTML, or for a terminal."""

import csv
import html
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hkdnet_jax.common import atomic_files
from hkdnet_jax.evaluation.markdown import markdown_table
from hkdnet_jax.evaluation.scoring import PROTOCOLS
from hkdnet_jax.metrics import METRICS

_ANSI = {"best": "\x1b[1m{}\x1b[0m", "second": "\x1b[4m{}\x1b[0m"}
_MARKDOWN = {"best": "**{}**", "second": "<u>{}</u>"}
_HTML = {"best": "<b>{}</b>", "second": "<u>{}</u>"}
_LATEX_COLUMN = 2  # metrics that fit beside a name into 3.5 inches
_LATEX = {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}"}
# Values beside the metrics: what a table calls them, and whether higher is better.
_OTHERS = {
    "psnr": ("PSNR, dB", True),
    "ssim": ("SSIM", True),
    "vgg": ("VGG distance", False),
}
KNOWN = (*_OTHERS, *METRICS)
_LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"\N{UPWARDS ARROW}": r"$\uparrow$", "\N{DOWNWARDS ARROW}": r"$\downarrow$"}
    | {"\N{PLUS-MINUS SIGN}": r"$\pm$"}
)
Values = Mapping[str, float]  # metric -> value, NaN where the metric has none


@dataclass(frozen=True)
class Scores:
    """The scores of several methods on one set of image pairs.

    Attributes:
      metrics: names from `METRICS` or, against a teacher's picture, `psnr` (dB), `ssim`
        and `vgg`; in the order of the columns.
      methods: method -> image -> its values, without images that could not be scored.
      pairs: number of pairs to score.
      protocol: a key of PROTOCOLS; empty where none applies.
      errors: one sentence for each image that could not be scored.
      unit: what the means are over.
    """

    metrics: Sequence[str]
    methods: Mapping[str, Mapping[str, Values]]
    pairs: int
    protocol: str
    errors: Sequence[str] = ()
    unit: str = "images"

    def count(self, method: str, metric: str) -> int:
        """Number of images that the mean is over."""
        return len(self._valued(method, metric))

    def mean(self, method: str, metric: str) -> float:
        """Mean over the images that have a value; NaN if there are none."""
        images = self.methods[method]
        values = [images[name][metric] for name in self._valued(method, metric)]
        return math.fsum(values) / len(values) if values else math.nan

    def marks(self, metric: str) -> dict[str, str]:
        """Maps methods to "best" or "second"; equal means share a mark.

        A mean that lacks an image for which another method has a value is not ranked,
        because that image may be the difficult one. Nothing is ranked if fewer than two
        means remain.
        """
        valued = {method: self._valued(method, metric) for method in self.methods}
        every = set().union(*valued.values())
        full = [method for method, images in valued.items() if images == every]
        if len(full) < 2 or not every:
            return {}
        means = {method: self.mean(method, metric) for method in full}
        order = sorted(set(means.values()), reverse=higher_is_better(metric))
        named = dict(zip(order, ("best", "second"), strict=False))
        return {method: named[mean] for method, mean in means.items() if mean in named}

    def _valued(self, method: str, metric: str) -> set[str]:
        images = self.methods[method]
        return {name for name in images if not math.isnan(images[name][metric])}


def higher_is_better(metric: str) -> bool:
    """Whether tables count a higher value of a metric as better."""
    return _OTHERS[metric][1] if metric in _OTHERS else METRICS[metric].higher_is_better


def heading(metric: str) -> str:
    """The heading of a metric's column, with an arrow towards the better end."""
    arrow = "\N{UPWARDS ARROW}" if higher_is_better(metric) else "\N{DOWNWARDS ARROW}"
    return f"{_OTHERS[metric][0] if metric in _OTHERS else metric} {arrow}"


def to_json(scores: Scores) -> str:
    """The scores as JSON, in which NaN is null.

    It holds `images`, `mean` and `count` of a single method, or of each method under
    `methods`; and `protocol` and `errors`.
    """
    methods = {method: _json_method(scores, method) for method in scores.methods}
    single = len(methods) == 1
    content = next(iter(methods.values())) if single else {"methods": methods}
    more = {"protocol": scores.protocol, "errors": list(scores.errors)}
    return atomic_files.to_json(content | more)


def _json_method(scores: Scores, method: str) -> dict:
    def finite(values: Values) -> dict[str, float | None]:
        return {m: None if math.isnan(values[m]) else values[m] for m in scores.metrics}

    return {
        "images": [
            {"name": name} | finite(values)
            for name, values in scores.methods[method].items()
        ],
        "mean": finite({m: scores.mean(method, m) for m in scores.metrics}),
        "count": {m: scores.count(method, m) for m in scores.metrics},
    }


def to_csv(scores: Scores) -> str:
    """The scores as CSV: one row for each method and image, one for each method's mean.

    A missing value is an empty field.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "method", "image", *scores.metrics])
    for method, images in scores.methods.items():
        mean = {metric: scores.mean(method, metric) for metric in scores.metrics}
        for name, values in [*images.items(), ("mean", mean)]:
            row = [values[metric] for metric in scores.metrics]
            fields = ["" if math.isnan(value) else value for value in row]
            writer.writerow([scores.protocol, method, name, *fields])
    return text.getvalue()


def to_markdown(scores: Scores) -> str:
    """The means as a Markdown table; the best is bold, the second underlined."""
    header, *rows = _cells(scores, lambda text, mark: _MARKDOWN[mark].format(text))
    return f"{markdown_table(header, rows)}\n{_caption(scores)}\n"


def to_latex(scores: Scores) -> str:
    """The means as a LaTeX table, which needs the package booktabs.

    The best is bold, the second underlined.  More metrics than a column of print holds
    stand across the page.
    """
    table = "table*" if len(scores.metrics) > _LATEX_COLUMN else "table"
    header, *rows = _cells(
        scores,
        lambda text, mark: _LATEX[mark].format(text),
        lambda text: text.translate(_LATEX_ESCAPES),
    )
    lines = [" & ".join(cells) + r" \\" for cells in (header, *rows)]
    return "\n".join(
        [
            rf"\begin{{{table}}}",
            r"\centering",
            rf"\caption{{{_caption(scores).translate(_LATEX_ESCAPES)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(scores.metrics)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{table}}}",
            "",
        ]
    )


def to_html(scores: Scores) -> str:
    """The means as an HTML table; the best is bold, the second underlined."""
    header, *rows = _cells(
        scores, lambda text, mark: _HTML[mark].format(text), html.escape
    )
    lines = [f"<tr>{''.join(f'<th>{text}</th>' for text in header)}</tr>"]
    for name, *cells in rows:
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f"<tr><th>{name}</th>{numbers}</tr>")
    caption = f"<caption>{html.escape(_caption(scores))}</caption>"
    return "\n".join(["<table>", caption, *lines, "</table>", ""])


def list_markdown(found: Mapping[str, Scores]) -> str:
    """Several tables in Markdown, each under its title."""
    return "\n".join(f"## {k}\n\n{to_markdown(v)}" for k, v in found.items())


def list_latex(found: Mapping[str, Scores]) -> str:
    """Several tables in LaTeX, each after a comment with its title."""
    return "\n".join(f"% {title}\n{to_latex(v)}" for title, v in found.items())


def list_csv(found: Mapping[str, Scores]) -> str:
    """The means of several tables as CSV, a row for each table, method and metric.

    `count` is the number of images that a mean is over, `mark` is `best`, `second` or
    empty; a mean without images is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "method", "metric", "mean", "count", "mark"])
    for title, scores in found.items():
        marks = {metric: scores.marks(metric) for metric in scores.metrics}
        for method, metric in itertools.product(scores.methods, scores.metrics):
            count = scores.count(method, metric)
            mean = scores.mean(method, metric) if count else ""
            mark = marks[metric].get(method, "")
            writer.writerow([title, method, metric, mean, count, mark])
    return text.getvalue()


# Suffix of a file of several tables -> its text.
LISTS = {".md": list_markdown, ".csv": list_csv, ".tex": list_latex}


def to_terminal(scores: Scores) -> str:
    """The means in aligned columns, marked by the escape sequences of a terminal."""
    plain = _cells(scores, lambda text, mark: text)
    marked = _cells(scores, lambda text, mark: _ANSI[mark].format(text))
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    lines = []
    for texts, cells in zip(plain, marked, strict=True):
        # Escape sequences take no room, so the padding is that of the plain text.
        gaps = [" " * (w - len(t)) for w, t in zip(widths, texts, strict=True)]
        first, *others = zip(gaps, cells, strict=True)
        lines.append("  ".join([first[1] + first[0], *(g + c for g, c in others)]))
    return "\n".join([*lines, "", _caption(scores), ""])


def _cells(
    scores: Scores,
    mark: Callable[[str, str], str],
    escape: Callable[[str], str] = lambda text: text,
) -> list[list[str]]:
    """Header and rows; `mark` gets a cell's text and its mark, "best" or "second".

    `escape` is applied to every text before it is marked.
    """
    header = [heading(metric) for metric in scores.metrics]
    marks = {metric: scores.marks(metric) for metric in scores.metrics}
    rows = []
    for method in scores.methods:
        row = [escape(method)]
        for metric in scores.metrics:
            text = escape(_cell(scores, method, metric))
            which = marks[metric].get(method)
            row.append(mark(text, which) if which else text)
        rows.append(row)
    return [["method", *map(escape, header)], *rows]


def _cell(scores: Scores, method: str, metric: str) -> str:
    count = scores.count(method, metric)
    if not count:
        return "none (n=0)"
    value = f"{scores.mean(method, metric):.4f}"
    return value if count == scores.pairs else f"{value} (n={count})"


def _caption(scores: Scores) -> str:
    text = f"Means over {scores.pairs} {scores.unit}"
    if scores.protocol:
        text += f"; protocol {scores.protocol} ({PROTOCOLS[scores.protocol]})"
    text += "."
    if any(scores.marks(metric) for metric in scores.metrics):
        text += " The best is bold, the second underlined."
    cells = itertools.product(scores.methods, scores.metrics)
    if any(scores.count(*cell) < scores.pairs for cell in cells):
        text += (
            f" Cells with n cover only n {scores.unit} and are not ranked against more."
        )
    return text
