import csv
import io
import json
import math
import re

import pytest

from hkdnet_jax.evaluation import tables
from hkdnet_jax.evaluation.tables import Scores
from hkdnet_jax.metrics import METRICS, Metric

NAN = math.nan


@pytest.fixture(autouse=True)
def low_metric(monkeypatch):
    """A metric LOW, of which less is better, whatever the real ones are."""
    monkeypatch.setitem(
        METRICS,
        "LOW",
        Metric(METRICS["AG"].compute, higher_is_better=False),
    )


def scores_of(methods, metrics=("CC", "LOW"), pairs=2, protocol="plain", errors=()):
    """Scores from {method: [values of image 1, values of image 2, ...]}."""
    named = {
        method: {
            f"image{number}": dict(zip(metrics, values, strict=True))
            for number, values in enumerate(rows, 1)
            if values is not None
        }
        for method, rows in methods.items()
    }
    return Scores(metrics, named, pairs, protocol, errors)


THREE = {
    "a": [(0.25, 3.0), (0.75, 5.0)],
    "b": [(0.5, 1.0), (1.0, 2.0)],
    "long name": [(0.125, 1.0), (0.125, 1.0)],
}


def plain(text):
    return re.sub(r"\x1b\[\d+m", "", text)


# --- means and marks ----------------------------------------------------------------


def test_means_leave_out_what_has_no_value():
    scores = scores_of({"a": [(0.25, NAN), (0.75, 5.0), (0.5, NAN)]}, pairs=3)
    assert (scores.mean("a", "CC"), scores.count("a", "CC")) == (0.5, 3)
    assert (scores.mean("a", "LOW"), scores.count("a", "LOW")) == (5.0, 1)
    nothing = scores_of({"a": []})
    assert math.isnan(nothing.mean("a", "CC")) and nothing.count("a", "CC") == 0


def test_direction_decides_the_marks():
    scores = scores_of(THREE)
    assert scores.marks("CC") == {"b": "best", "a": "second"}
    assert scores.marks("LOW") == {"long name": "best", "b": "second"}


def test_ties_share_a_mark():
    scores = scores_of(
        {"a": [(1, 1)], "b": [(1, 2)], "c": [(0.5, 2)], "d": [(0.5, 3)], "e": [(0, 3)]}
    )
    marks = {"a": "best", "b": "best", "c": "second", "d": "second"}
    assert scores.marks("CC") == marks
    assert scores.marks("LOW") == {"a": "best", "b": "second", "c": "second"}


def test_a_single_method_has_no_marks():
    assert scores_of({"a": THREE["a"]}).marks("CC") == {}


def test_a_mean_over_fewer_images_is_not_ranked():
    # `a` would win only because it lacks the hard image.
    methods = {
        "a": [(0.9, 1.0), None],
        "b": [(0.8, 2.0), (0.2, 2.0)],
        "c": [(0.7, 3.0), (0.2, NAN)],
    }
    scores = scores_of(methods)
    assert scores.marks("CC") == {"b": "best", "c": "second"}
    # Alone with all the images, `b` has nothing to be compared with.
    assert scores.marks("LOW") == {}
    # The same number of images is not the same images.
    other = scores_of({"a": [(0.9, 1), None], "b": [None, (0.1, 1)]})
    assert other.marks("CC") == {}


def test_an_image_without_value_for_any_method_hinders_no_ranking():
    scores = scores_of({"a": [(NAN, 1), (0.5, 1)], "b": [(NAN, 1), (0.75, 1)]})
    assert scores.marks("CC") == {"b": "best", "a": "second"}
    assert scores_of({"a": [(NAN, 1)], "b": [(NAN, 1)]}).marks("CC") == {}


# --- Markdown and terminal ----------------------------------------------------------


def test_markdown():
    assert tables.to_markdown(scores_of(THREE)) == (
        "| method | CC ↑ | LOW ↓ |\n"
        "| --- | ---: | ---: |\n"
        "| a | <u>0.5000</u> | 4.0000 |\n"
        "| b | **0.7500** | <u>1.5000</u> |\n"
        "| long name | 0.1250 | **1.0000** |\n"
        "\n"
        "Means over 2 images; protocol plain (inputs and fused images as they are). "
        "The best is bold, the second underlined.\n"
    )


def test_markdown_of_one_method_and_missing_values():
    scores = scores_of(
        {"a|b": [(0.5, NAN), (NAN, NAN), (1.0, NAN)]}, pairs=4, protocol="paper"
    )
    lines = tables.to_markdown(scores).splitlines()
    assert lines[2] == "| a\\|b | 0.7500 (n=2) | none (n=0) |"
    assert lines[-1].startswith("Means over 4 images; protocol paper (model inputs and")
    assert "Cells with n " in lines[-1] and "bold" not in lines[-1]


def test_terminal_has_the_same_in_aligned_columns():
    text = tables.to_terminal(scores_of(THREE))
    assert plain(text) == (
        "method       CC ↑   LOW ↓\n"
        "a          0.5000  4.0000\n"
        "b          0.7500  1.5000\n"
        "long name  0.1250  1.0000\n"
        "\n"
        "Means over 2 images; protocol plain (inputs and fused images as they are). "
        "The best is bold, the second underlined.\n"
    )
    bold, underlined = "\x1b[1m{}\x1b[0m", "\x1b[4m{}\x1b[0m"
    assert bold.format("0.7500") in text and bold.format("1.0000") in text
    assert underlined.format("0.5000") in text and underlined.format("1.5000") in text
    assert text.count("\x1b[") == 8
    assert "\x1b" not in tables.to_terminal(scores_of({"a": THREE["a"]}))


# --- JSON and CSV -------------------------------------------------------------------


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_of_one_method():
    values = [(0.1 + 0.2, 3.0), (NAN, 5.0)]
    scores = scores_of({"a": values}, errors=["b.png is bad."], protocol="paper")
    content = strict(tables.to_json(scores))
    assert list(content) == ["images", "mean", "count", "protocol", "errors"]
    assert content == {
        "images": [
            {"name": "image1", "CC": 0.1 + 0.2, "LOW": 3.0},
            {"name": "image2", "CC": None, "LOW": 5.0},
        ],
        "mean": {"CC": 0.1 + 0.2, "LOW": 4.0},
        "count": {"CC": 1, "LOW": 2},
        "protocol": "paper",
        "errors": ["b.png is bad."],
    }


def test_json_of_several_methods():
    content = strict(tables.to_json(scores_of(THREE)))
    assert list(content) == ["methods", "protocol", "errors"]
    assert list(content["methods"]) == list(THREE)
    single = strict(tables.to_json(scores_of({"b": THREE["b"]})))
    assert content["methods"]["b"] == {
        key: single[key] for key in ("images", "mean", "count")
    }


def test_json_of_nothing():
    content = strict(tables.to_json(scores_of({"a": []})))
    assert content["images"] == []
    assert content["mean"] == {"CC": None, "LOW": None}
    assert content["count"] == {"CC": 0, "LOW": 0}


def test_csv():
    methods = {'a, "b"': [(0.1 + 0.2, NAN), (0.5, NAN)], "c": [None, (0.25, 2.0)]}
    text = tables.to_csv(scores_of(methods, protocol="paper"))
    assert "\r" not in text
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["protocol", "method", "image", "CC", "LOW"]
    assert {row[0] for row in rows} == {"paper"}
    assert [row[1:] for row in rows] == [
        ['a, "b"', "image1", repr(0.1 + 0.2), ""],
        ['a, "b"', "image2", "0.5", ""],
        ['a, "b"', "mean", "0.4", ""],
        ["c", "image2", "0.25", "2.0"],
        ["c", "mean", "0.25", "2.0"],
    ]


# --- LaTeX, HTML, and several tables ------------------------------------------------


def test_latex():
    assert tables.to_latex(scores_of(THREE | {"2_3 & 50%": [None, None]})) == (
        "\\begin{table}\n\\centering\n"
        "\\caption{Means over 2 images; protocol plain (inputs and fused images as "
        "they are). The best is bold, the second underlined. Cells with n cover only n "
        "images and are not ranked against more.}\n"
        "\\begin{tabular}{lrr}\n\\toprule\n"
        "method & CC $\\uparrow$ & LOW $\\downarrow$ \\\\\n\\midrule\n"
        "a & \\underline{0.5000} & 4.0000 \\\\\n"
        "b & \\textbf{0.7500} & \\underline{1.5000} \\\\\n"
        "long name & 0.1250 & \\textbf{1.0000} \\\\\n"
        "2\\_3 \\& 50\\% & none (n=0) & none (n=0) \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


@pytest.mark.parametrize(("count", "table"), [(2, "table"), (3, "table*")])
def test_a_wide_latex_table_stands_across_the_page(count, table):
    names = list(METRICS)[:count]
    text = tables.to_latex(scores_of({"a": [[0.5] * count]}, names))
    assert text.startswith(f"\\begin{{{table}}}\n")
    assert text.endswith(f"\\end{{{table}}}\n")


def test_html_is_escaped_and_marked():
    text = tables.to_html(scores_of({"<a>": THREE["a"], "b": THREE["b"]}))
    assert (
        "<tr><th>&lt;a&gt;</th><td><u>0.5000</u></td><td><u>4.0000</u></td></tr>"
        in text
    )
    assert "<td><b>0.7500</b></td>" in text and "<caption>Means over 2" in text


def test_several_tables():
    found = {"x2": scores_of(THREE), "x3": scores_of({"a": [(NAN, 2.0)]}, pairs=1)}
    markdown = tables.list_markdown(found)
    assert markdown.startswith("## x2\n\n| method | CC") and "\n## x3\n\n" in markdown
    assert tables.list_latex(found).count("\\begin{table}") == 2
    header, *rows = csv.reader(io.StringIO(tables.list_csv(found)))
    assert header == ["table", "method", "metric", "mean", "count", "mark"]
    assert ["x2", "b", "CC", "0.75", "2", "best"] in rows
    assert rows[-2:] == [
        ["x3", "a", "CC", "", "0", ""],
        ["x3", "a", "LOW", "2.0", "1", ""],
    ]
