"""Comparison sheets: what is read, which box is chosen, and what is drawn."""

import numpy as np
import pytest
from command_fixtures import write
from figure_fixtures import drawn

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.evaluation.figures import style, zoomed
from hkdnet_jax.evaluation.figures.zoomed import Row
from hkdnet_jax.evaluation.scoring import SavedImages


@pytest.fixture
def pair(tmp_path):
    levels = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    write(tmp_path / "ir.png", levels)
    write(tmp_path / "vis.png", np.dstack([levels, levels[::-1], levels]))
    return Pair("a", tmp_path / "ir.png", tmp_path / "vis.png")


def test_sources_are_repeated_and_colour_is_kept(tmp_path, pair):
    write(tmp_path / "gray.png", np.zeros((24, 32), np.uint8))
    write(tmp_path / "rgb.png", np.full((24, 32, 3), (1, 2, 3), np.uint8))
    files = {"gray": tmp_path / "gray.png", "rgb": tmp_path / "rgb.png"}
    row = zoomed.read_row(pair, files)
    assert list(row.pictures) == ["infrared", "visible", "gray", "rgb"]
    ir, visible, _, rgb = row.pictures.values()
    levels = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    np.testing.assert_array_equal(ir, np.kron(levels, np.ones((2, 2), np.uint8)))
    assert visible.shape == (24, 32, 3) and visible[2, 3, 1] == levels[::-1][1, 1]
    assert rgb[0, 0].tolist() == [1, 2, 3]
    write(tmp_path / "odd.png", np.zeros((25, 33), np.uint8))
    with pytest.raises(UserError, match=r"ir.png is 16x12 but .*odd.png is 33x25"):
        zoomed.read_row(pair, {"odd": tmp_path / "odd.png"})


def test_rows_are_those_that_every_method_has(tmp_path, pair):
    write(tmp_path / "f.png", np.zeros((12, 16), np.uint8))
    full = SavedImages({"a": tmp_path / "f.png"}, "plain")
    (row,) = zoomed.read_rows([pair], {"m": full}, None)
    assert row.name == "a" and list(row.pictures) == ["infrared", "visible", "m"]
    with pytest.raises(UserError, match=r"--pairs b is no pair .* choose out of a"):
        zoomed.read_rows([pair], {"m": full}, "b")
    with pytest.raises(UserError, match="No pair is fused by every method"):
        zoomed.read_rows([pair], {"m": full, "n": SavedImages({}, "plain")}, None)


def row_of(*fused):
    names = ("infrared", "visible", *map(str, range(len(fused))))
    source = np.zeros_like(fused[0])
    return Row("a", dict(zip(names, (source, source, *fused), strict=True)))


def test_the_box_is_where_the_methods_differ_most():
    one = np.zeros((50, 80), np.uint8)
    two = one.copy()
    two[20:30, 60:70] = 200
    assert zoomed.busiest_box(row_of(one, two)) == (60, 20, 10, 10)
    two = one.copy()
    two[48:, 78:] = 200  # in the corner the box stays inside
    left, top, side, _ = zoomed.busiest_box(row_of(one, two))
    assert side == 10 and 68 <= left <= 70 and 38 <= top <= 40
    # A sky of another level is no detail, and fine lines are.
    other = np.linspace(120, 0, 50).astype(np.uint8)[:, None].repeat(80, axis=1)
    other[36:46:2, 60:70] += 40
    left, top, *_ = zoomed.busiest_box(row_of(one, other))
    assert abs(left - 60) <= 1 and abs(top - 36) <= 1
    # A single method differs from its surroundings.
    left, top, *_ = zoomed.busiest_box(row_of(two))
    assert left >= 60 and top >= 35


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "-1,0,5,5", "0,0,0,5", ""])
def test_a_box_that_is_none(text):
    with pytest.raises(UserError, match="is no box: write LEFT,TOP,WIDTH,HEIGHT"):
        zoomed.parse_box(text)


def test_a_sheet_enlarges_the_boxes():
    image = np.zeros((40, 60), np.uint8)
    image[10:14, 20:26] = 255
    row = row_of(image, image)
    boxes = [zoomed.parse_box("20,10,6,4"), zoomed.parse_box("0,0,6,4")]
    figure = zoomed.draw_sheet([row], boxes)
    assert len(figure.axes) == 4 * 3
    zooms = [panel.get_images()[0].get_array() for panel in figure.axes]
    assert zooms[7].shape == (4, 6) and zooms[7].min() == 255 and zooms[8].max() == 0
    picture = drawn(figure)
    assert picture.shape[1] == round(200 * style.PAGE)
    # White where the first box is enlarged, which is half a cell wide.
    assert (picture.min(axis=2) > 250).mean() > 1 / 16
    with pytest.raises(UserError, match="does not lie inside a, which is 60x40"):
        zoomed.draw_sheet([row], [(50, 0, 11, 5)])
