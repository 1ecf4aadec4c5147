"""Yardsticks of a comparison: the counting of people, and the tables of both."""

import json
import sys
import types

import cv2
import numpy as np
import pytest
from command_fixtures import make_pair, write

from hkdnet_jax import compare
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.evaluation import natural, people, side_by_side_figures, yardsticks
from hkdnet_jax.evaluation.side_by_side import Measured, picture_file

H, W = 108, 120


def boxes(*rows):
    return np.array(rows, np.float64).reshape(-1, 4)


def test_overlaps():
    a = boxes((0, 0, 10, 20), (100, 0, 10, 20))
    b = boxes((0, 0, 10, 20), (5, 0, 10, 20), (0, 30, 10, 20))
    np.testing.assert_allclose(people.overlaps(a, b), [[1, 1 / 3, 0], [0, 0, 0]])
    assert people.overlaps(a, boxes()).shape == (2, 0)


def test_a_person_in_both_sources_counts_once():
    both = boxes((0, 0, 10, 20), (1, 1, 10, 20), (40, 0, 10, 20))
    np.testing.assert_array_equal(people.united(both), both[[0, 2]])
    assert people.united(boxes()).shape == (0, 4)


def test_each_person_is_found_once():
    there = boxes((0, 0, 10, 20), (40, 0, 10, 20))
    assert people.hits(boxes((0, 1, 10, 20), (1, 0, 10, 20)), there) == 1
    assert people.hits(boxes((41, 0, 10, 20), (0, 1, 10, 20)), there) == 2
    assert people.hits(boxes((5, 0, 10, 20)), there) == 0
    assert people.hits(boxes(), there) == people.hits(there, boxes()) == 0


def test_the_detector_of_opencv(monkeypatch):
    if not hasattr(cv2, "HOGDescriptor"):
        with pytest.raises(UserError, match=r"which version 5\S* has not: run pip"):
            people.load()

    class Descriptor:
        def setSVMDetector(self, weights):
            assert weights == "weights"

        def detectMultiScale(self, picture, **options):
            assert picture.dtype == np.uint8 and options["winStride"] == (8, 8)
            if not picture.any():
                return (), ()
            return [(1, 2, 3, 4), (5, 6, 7, 8)], np.array([[0.2], [0.9]])

    fake = types.SimpleNamespace(
        HOGDescriptor=Descriptor,
        HOGDescriptor_getDefaultPeopleDetector=lambda: "weights",
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    detect = people.load()
    found = detect(np.ones((128, 64), np.uint8))
    np.testing.assert_array_equal(found, [[5, 6, 7, 8], [1, 2, 3, 4]])
    assert detect(np.zeros((130, 80), np.uint8)).shape == (0, 4)
    for small in ((127, 64), (128, 63)):  # in which OpenCV would crash
        assert detect(np.ones(small, np.uint8)).shape == (0, 4)


@pytest.fixture
def out(tmp_path):
    """A folder with the pictures of a method that copies the infrared image."""
    pairs = []
    for seed, stem in enumerate("ab"):
        ir, vis = make_pair(seed, H, W)
        files = [
            write(tmp_path / k / f"{stem}.png", x) for k, x in (("i", ir), ("v", vis))
        ]
        pairs.append(Pair(stem, *files))
        write(picture_file(tmp_path, 2, "copy", pairs[-1]), ir)
    return tmp_path, pairs


def test_what_is_measured(out, monkeypatch):
    folder, pairs = out
    rows = {2: {"copy": {"a": {}, "b": {}}, "absent": {}}, 3: {"copy": {"a": {}}}}
    irs = {make_pair(seed, H, W)[0].tobytes() for seed in (0, 1)}
    write(picture_file(folder, 3, "copy", pairs[0]), make_pair(0, H, W)[0])
    seen = []

    def detect(picture):
        """One person in the infrared images, two and one less surely in the others."""
        assert picture.shape == (H, W)
        seen.append(picture.tobytes())
        if picture.tobytes() in irs:
            return boxes((0, 0, 20, 40), (60, 0, 20, 40))
        return boxes((0, 0, 20, 40), (30, 50, 20, 40))

    monkeypatch.setattr(people, "load", lambda: detect)
    found = yardsticks.measure(Measured(rows), pairs, folder, yardsticks.NAMES)
    assert list(found[2]) == ["copy"]
    # Two sources of each pair, whatever the number of scales, and the three pictures.
    assert len(seen) == 2 * 2 + 3
    row = dict(found[2]["copy"])
    distances = [natural.naturalness(make_pair(seed, H, W)[0]) for seed in (0, 1)]
    assert row.pop("natural") == pytest.approx(np.mean(distances))
    assert row == {"images": 2, "people": 6, "found": 4, "extra": 0}
    text = yardsticks.write(found, folder)
    assert text == (folder / "yardsticks.md").read_text()
    assert f"| copy | 2 | {np.mean(distances):.2f} | 6 | 4 | 0 |" in text
    content = json.loads((folder / "yardsticks.json").read_text())
    assert content["scales"]["2"]["copy"]["found"] == 4


def test_pictures_that_are_too_small(out):
    folder, pairs = out
    for pair in pairs:
        write(picture_file(folder, 2, "copy", pair), make_pair(0, 60, 60)[0])
    rows = {2: {"copy": {"a": {}, "b": {}}}}
    found = yardsticks.measure(Measured(rows), pairs, folder, ["natural"])
    assert found[2]["copy"] == {"images": 2, "natural": None}
    text = yardsticks.to_markdown(found)
    assert "| copy | 2 |  |" in text and "People" not in text


def test_the_option_of_compare(out, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(side_by_side_figures, "draw", lambda *args: [])
    folder, _ = out
    args = ["--ir", str(folder / "i"), "--vis", str(folder / "v"), "--out"]
    args += [str(tmp_path / "o"), "--methods", "average+bicubic", "--yardsticks"]
    assert compare.main([*args, "natural"]) == 0
    said = capfd.readouterr().out
    assert said.endswith((tmp_path / "o" / "yardsticks.md").read_text())
    assert "| average+bicubic | 2 | " in said

    def missing():
        raise UserError("The yardstick people needs more.")

    monkeypatch.setattr(people, "load", missing)
    assert compare.main([*args, "people"]) == 1
    assert "needs more" in capfd.readouterr().err
