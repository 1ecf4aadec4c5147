"""Few shapes for many sizes."""

import itertools
import math

import numpy as np
import pytest

from hkdnet_jax.inference.shapes import MOST_SHAPES, cover


def waste(counts, shape_of):
    own = sum(math.prod(size) * n for size, n in counts.items())
    padded = sum(math.prod(shape_of[size]) * n for size, n in counts.items())
    return padded / own - 1


def assert_covers(counts, shape_of, most=MOST_SHAPES):
    assert set(shape_of) == set(counts)
    assert len(set(shape_of.values())) <= most
    for (h, w), (height, width) in shape_of.items():
        assert height >= h and width >= w


def test_few_sizes_stay_as_they_are():
    counts = {(10 + n, 30 - n): 1 for n in range(MOST_SHAPES)}
    assert cover(counts) == {size: size for size in counts}
    assert cover({}) == {}


@pytest.mark.parametrize("number", [13, 221])
def test_a_folder_of_crops_wastes_little(number):
    # As in RoadScene: heights 161 to 459, widths 351 to 622.
    rng = np.random.default_rng(number)
    sides = zip(rng.normal(301, 55, number), rng.normal(515, 60, number), strict=True)
    counts = {(int(h), int(w)): 1 for h, w in sides}
    shape_of = cover(counts)
    assert_covers(counts, shape_of)
    assert waste(counts, shape_of) < 0.2


def test_a_size_of_many_images_is_not_padded():
    counts = {(100 + n, 100 + n): 1 for n in range(20)} | {(105, 105): 1000}
    assert cover(counts)[105, 105] == (105, 105)


def test_the_best_pairs_are_merged():
    # Worked by hand: 10x10 and 10x11 cost 10 pixels, every other pair more.
    assert cover({(10, 10): 1, (10, 11): 1, (40, 10): 1}, most=2) == {
        (10, 10): (10, 11),
        (10, 11): (10, 11),
        (40, 10): (40, 10),
    }
    assert cover({(10, 20): 1, (20, 10): 1, (50, 50): 1}, most=2) == {
        (10, 20): (20, 20),
        (20, 10): (20, 20),
        (50, 50): (50, 50),
    }


def test_thousands_of_sizes():
    sides = range(8, 1000, 14)
    counts = {size: 1 for size in itertools.product(sides, sides)}
    shape_of = cover(counts)
    assert len(counts) > 5000
    assert_covers(counts, shape_of)
    assert waste(counts, shape_of) < 0.8
