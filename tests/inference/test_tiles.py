"""Images cut into tiles and blended again."""

import numpy as np
import pytest

from hkdnet_jax.inference import tiles


@pytest.mark.parametrize(
    "shape", [(64, 64), (64, 200), (65, 66), (300, 101), (127, 128)]
)
@pytest.mark.parametrize("tile", [None, 64, 100, 128])
@pytest.mark.parametrize("scale", [1, 3])
def test_tiles_cover_the_image_and_blend_to_it(shape, tile, scale):
    image = np.random.default_rng(0).random(shape, np.float32)
    sides = tiles.tile_shape(shape, tile)
    assert all(side == min(s, tile or s) for side, s in zip(sides, shape, strict=True))
    places = tiles.corners(shape, sides)
    assert (len(places) == 1) == (sides == shape)
    cut = tiles.cut(image, places, sides)
    assert cut.shape == (len(places), *sides)
    enlarged = np.kron(cut, np.ones((1, scale, scale), np.float32))
    blended = tiles.blend(enlarged, places, shape, scale)
    expected = np.kron(image, np.ones((scale, scale), np.float32))
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", range(64, 400, 7))
def test_neighbours_overlap_by_a_fourth(length):
    starts = tiles._starts(length, 64, 1)
    assert starts[0] == 0 and starts[-1] == length - 64
    steps = np.diff(starts)
    assert np.all(steps > 0) and np.all(steps <= 48)
    # No more than are needed.
    assert len(starts) == 1 or 48 * (len(starts) - 2) < length - 64


def test_tiles_of_different_levels_leave_no_seam():
    shape, sides = (256, 256), (64, 64)
    places = tiles.corners(shape, sides)
    levels = np.random.default_rng(0).random(len(places), np.float32)
    flat = np.broadcast_to(levels[:, None, None], (len(places), *sides))
    blended = tiles.blend(flat, places, shape, 1)
    for axis in (0, 1):
        # A hard edge would step by up to 1; over 12 pixels a smooth one by 1/8.
        assert abs(np.diff(blended, axis=axis)).max() < 1 / 6
    assert blended.min() >= levels.min() - 1e-6
    assert blended.max() <= levels.max() + 1e-6


def test_what_lies_beside_a_tile_edge_is_not_used():
    shape, sides = (100, 64), (64, 64)
    places = tiles.corners(shape, sides)
    assert places == [(0, 0), (36, 0)]
    wild = np.zeros((2, *sides), np.float32)
    wild[0, -2:] = wild[1, :2] = np.nan
    wild = np.nan_to_num(wild, nan=1e6)  # 0 * NaN would spread
    assert not tiles.blend(wild, places, shape, 1).any()
    # At the image's own border a tile is used to its edge.
    wild = np.zeros((2, *sides), np.float32)
    wild[0, 0] = 1
    assert np.all(tiles.blend(wild, places, shape, 1)[0] == 1)
