"""The data of the curves, and what is drawn of them."""

import json
import math

import numpy as np
import pytest
from figure_fixtures import drawn, lines_of

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation.figures import curves, style
from hkdnet_jax.evaluation.tables import Scores

ROWS = [
    {"step": 10, "train/loss": 300.0, "train/lr": 1e-3, "train/phase": 1.0},
    {"step": 20, "train/loss": 2.0, "train/lr": 1e-3, "train/phase": 2.0},
    {"step": 10, "val/psnr": 30.0, "val/psnr_bicubic": 28.0, "val/loss": 3.0},
    {"step": 20, "val/psnr": 31.0, "val/psnr_bicubic": 28.5, "val/loss": 2.5},
    {"step": 20, "val/MS_SSIM": None, "val/CC": 0.5, "val/alive": 1.0},
]


@pytest.fixture
def run(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "metrics.jsonl").write_text(text)
    return tmp_path


def test_the_curves_of_a_run(run):
    found = curves.run_curves(run)
    assert {"train/loss", "train/lr", "val/psnr", "val/MS_SSIM"} <= found.keys()
    steps, values = found["train/loss"]
    assert list(steps) == [10, 20] and list(values) == [300.0, 2.0]
    assert len(found["val/MS_SSIM"][0]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no run"),
        ("not JSON", "holds no run"),
        ("[1, 2]\n", "holds no run"),
        ('{"name": 3}\n', "holds no run"),
        ("", "without numbers yet"),
    ],
)
def test_a_folder_without_a_run_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=said):
        curves.run_curves(tmp_path)


def test_a_run_is_drawn_by_term_with_its_validation(run):
    figure = curves.draw_runs({"a": curves.run_curves(run)})
    panels = lines_of(figure)
    # Neither the learning rate, nor a value that was taken once.
    assert list(panels) == ["training: loss", "validation: PSNR, dB"]
    loss = list(panels["training: loss"].values())
    assert loss[:2] == [([10, 20], [300.0, 2.0]), ([10, 20], [3.0, 2.5])]
    psnr = list(panels["validation: PSNR, dB"].values())
    assert psnr[:2] == [([10, 20], [30.0, 31.0]), ([10, 20], [28.0, 28.5])]
    # The second phase starts at step 20.
    assert loss[2][0] == psnr[2][0] == [20, 20]
    assert [panel.get_yscale() for panel in figure.axes] == ["log", "linear"]
    picture = drawn(figure)
    assert picture.shape[1] == 200 * style.COLUMN and picture.min() < 100


def test_several_runs_are_named(run):
    found = curves.run_curves(run)
    figure = curves.draw_runs({"one": found, "two": found})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    looks = {(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}
    assert len(looks) == 2


def scores(methods, metrics=("CC", "AG")):
    named = {
        method: {
            f"image{n}": dict(zip(metrics, row, strict=True))
            for n, row in enumerate(rows)
            if row is not None
        }
        for method, rows in methods.items()
    }
    return Scores(metrics, named, 3, "plain")


def test_images_have_a_curve_for_each_method():
    found = scores({"a": [(1, 2), (3, 4), (5, 6)], "b": [(7, 8), None, (9, math.nan)]})
    panels = lines_of(curves.draw_images(found))
    assert list(panels) == ["CC ↑", "AG ↑"]
    np.testing.assert_equal(panels["CC ↑"]["b"], ([1, 2, 3], [7, math.nan, 9]))
    np.testing.assert_equal(panels["AG ↑"]["b"], ([1, 2, 3], [8, math.nan, math.nan]))
    assert panels["AG ↑"]["a"] == ([1, 2, 3], [2, 4, 6])


def test_a_sweep_over_a_number():
    found = scores({"alpha = 0.5": [(1, 2), (3, 2)], "alpha = 0.1": [(4, 5)]})
    values, name = curves.sweep_curves(found)
    assert name == "alpha"
    assert [list(x) for x in values["CC"]] == [[0.1, 0.5], [4, 2]]
    panels = lines_of(curves.draw_sweep(values, name))
    assert list(panels["AG ↑"].values()) == [([0.1, 0.5], [5, 2])]
    with pytest.raises(UserError, match="'baseline' is no value of a number"):
        curves.sweep_curves(scores({"baseline": [(1, 2)]}))


def test_speed():
    rows = [
        {"pixels": 100, "seconds": 0.5, "gigabytes": None},
        {"pixels": 10000, "seconds": 40.0, "gigabytes": 1.5},
    ]
    figure = curves.draw_speed({"fuse lite x2": rows})
    panels = lines_of(figure)
    assert panels["time for one, s"]["fuse lite x2"] == ([100, 10000], [0.5, 40.0])
    assert panels["peak memory, GB"]["fuse lite x2"] == ([10000], [1.5])
    assert {panel.get_xscale() for panel in figure.axes} == {"log"}
    written = figure.axes[0].xaxis.get_major_formatter()
    assert [written(x) for x in (1e6, 0.05)] == ["1000000", "0.05"]
    drawn(figure)


def contrast(colour):
    """WCAG's contrast of a colour to white paper."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels
    ]
    return 1.05 / (np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05)


def test_series_differ_in_print_without_colour():
    looks = [style.series(n) for n in range(14)]
    shapes = {(look["linestyle"], look["marker"]) for look in looks}
    assert len(shapes) == 14
    assert all(contrast(look["color"]) > 2 for look in looks)


def test_equal_figures_are_equal_files(run):
    found = {"a": curves.run_curves(run)}
    for suffix in style.FORMATS:
        one, two = (style.encode(curves.draw_runs(found), suffix) for _ in range(2))
        assert one == two and len(one) > 1000
