"""Ranges and their mapping to [0, 1], against formulas and NumPy's quantiles."""

import numpy as np
import pytest

from hkdnet_jax.common import levels
from hkdnet_jax.common.levels import AUTO, BYTES, FULL, Pooled, Range

RNG = np.random.default_rng(3)
SCENE = RNG.normal(7500, 300, (48, 64))  # a 14-bit camera's picture


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("auto", AUTO),
        ("full", FULL),
        ("7000:9000", Range(7000, 9000)),
        ("-20.5:1e2", Range(-20.5, 100)),
    ],
)
def test_parse(text, spec):
    assert levels.parse(text) == spec


@pytest.mark.parametrize(
    "text", ["", "Auto", "7000", "9:7", "7:7", ":", "a:b", "1:nan", "-inf:1", "1:2:3"]
)
def test_what_is_no_range(text):
    with pytest.raises(ValueError, match="is not a range: give auto, full, or two"):
        levels.parse(text)


@pytest.mark.parametrize(
    ("dtype", "bits", "full"),
    [
        ("u1", None, (0, 255)),
        ("u2", None, (0, 65535)),
        ("u2", 12, (0, 4095)),
        ("u4", None, (0, 2**32 - 1)),
        ("i1", None, (-128, 127)),
        ("i2", None, (-32768, 32767)),
        ("f4", None, (0, 1)),
    ],
)
def test_full_range(dtype, bits, full):
    assert levels.full_range(np.dtype(dtype), bits) == full


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4"])
def test_luma_of_integers_is_exact(dtype):
    ends = np.iinfo(dtype)
    rgb = RNG.integers(ends.min, ends.max, (9, 11, 3), dtype=dtype, endpoint=True)
    rgb[0, 0], rgb[0, 1] = ends.max, ends.min
    weights = (298936, 587043, 114021)
    exact = sum(w * rgb[..., i].astype(object) for i, w in enumerate(weights))
    expected = ((exact + 500_000) // 1_000_000).astype(dtype)
    luma = levels.luma(rgb)
    assert luma.dtype == dtype
    np.testing.assert_array_equal(luma, expected)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_luma_of_floating_point(dtype):
    rgb = RNG.normal(20, 5, (9, 11, 3)).astype(dtype)
    rgb[2, 3, 1] = np.nan
    luma = levels.luma(rgb)
    assert luma.dtype == dtype and np.argwhere(np.isnan(luma)).tolist() == [[2, 3]]
    expected = rgb.astype("f8") @ [0.298936, 0.587043, 0.114021]
    np.testing.assert_allclose(luma, expected, rtol=2 * np.finfo(dtype).eps)


def test_gray_is_its_own_luma():
    gray = SCENE.astype(np.uint16)
    assert levels.luma(gray) is gray


def test_a_large_picture_gives_the_luma_of_its_parts():
    rgb = RNG.integers(0, 256, (3000, 1500, 3), dtype=np.uint8)
    parts = [levels.luma(rgb[row : row + 7]) for row in range(0, 3000, 1000)]
    whole = levels.luma(rgb)
    for row, part in zip(range(0, 3000, 1000), parts, strict=True):
        np.testing.assert_array_equal(whole[row : row + 7], part)


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4", "f8"])
def test_the_robust_range_is_that_of_the_quantiles(dtype):
    image = SCENE.astype(dtype)
    low, high = levels.robust_range([levels.sample(image)])
    quantiles = np.quantile(image, [0.001, 0.999])
    np.testing.assert_allclose([low, high], quantiles, atol=60)
    ordered = np.sort(image, axis=None)
    assert (low, high) == (ordered[3], ordered[-4])


@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (48, 64)])
@pytest.mark.parametrize("outlier", [0, 65535])
def test_one_dead_or_hot_pixel_does_not_matter(shape, outlier):
    image = SCENE[: shape[0], : shape[1]].astype(np.uint16)
    clean = levels.resolve(AUTO, image, Range(0, 65535))
    image[4, 5] = outlier
    dirty = levels.resolve(AUTO, image, Range(0, 65535))
    span = clean.high - clean.low
    assert abs(dirty.low - clean.low) + abs(dirty.high - clean.high) < 0.25 * span
    if shape == (48, 64):
        unit = levels.to_unit(image, dirty)
        assert np.corrcoef(unit.ravel(), SCENE.ravel())[0, 1] > 0.98


def test_what_is_not_finite_has_no_part_in_the_range():
    image = SCENE.astype(np.float32)
    expected = levels.robust_range([levels.sample(image[10:])])
    image[:10] = np.nan
    image[5, :30], image[6, :30] = np.inf, -np.inf
    assert levels.robust_range([levels.sample(image)]) == expected


def test_pictures_without_a_level_or_with_one():
    nothing = np.full((9, 9), np.nan, np.float32)
    assert levels.robust_range([levels.sample(nothing)]) is None
    assert levels.robust_range([]) is None
    assert levels.resolve(AUTO, nothing, Range(0, 1)) == (0, 1)
    assert levels.extremes(nothing) is None
    for flat in (np.full((9, 9), 7000, np.uint16), np.full((9, 9), 21.5)):
        found = levels.resolve(AUTO, flat, Range(0, 65535))
        assert found.low == found.high == flat[0, 0]
        unit = levels.to_unit(flat, found)
        assert unit.dtype == np.float32 and not unit.any()


def test_8_bits_are_kept_unless_a_range_is_given():
    image = RNG.integers(90, 120, (9, 9), dtype=np.uint8)
    for spec in (AUTO, FULL, Pooled(100, 110)):
        assert levels.resolve(spec, image, BYTES) == BYTES
    assert levels.resolve(Range(100, 110), image, BYTES) == (100, 110)
    deep = image.astype(np.uint16)
    assert levels.resolve(Pooled(100, 110), deep, Range(0, 4095)) == (100, 110)
    assert levels.resolve(FULL, deep, Range(0, 4095)) == (0, 4095)


def test_the_range_of_several_pictures_is_that_of_all_their_levels():
    images = [(SCENE + shift).astype(np.uint16) for shift in (0, 500, 1000)]
    together = np.concatenate(images)
    byte = np.zeros((9, 9), np.uint8)
    found = levels.pooled([images[0], byte, *images[1:]])
    assert isinstance(found, Pooled)
    assert found == levels.robust_range([together])
    assert levels.pooled([byte]) == levels.pooled([]) == AUTO


def test_a_grid_of_a_large_picture_is_looked_at():
    image = np.arange(2048 * 3000, dtype=np.uint32).reshape(2048, 3000)
    sample = levels.sample(image)
    assert 2**18 < sample.size <= 2**20
    low, high = levels.robust_range([sample])
    assert low < 0.005 * image.size and high > 0.99 * image.size


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f2", "f4", "f8"])
def test_to_unit(dtype):
    image = RNG.integers(0, 100, (9, 9)).astype(dtype)
    unit = levels.to_unit(image, Range(20, 60))
    assert unit.dtype == np.float32
    exact = np.clip((image.astype("f8") - 20) / 40, 0, 1)
    np.testing.assert_array_equal(unit, exact.astype(np.float32))


def test_8_bits_are_divided_exactly():
    every = np.arange(256, dtype=np.uint8)
    exact = (np.arange(256) / 255).astype(np.float32)
    np.testing.assert_array_equal(levels.to_unit(every, BYTES), exact)
    deep = every.astype(np.uint16) * 257
    np.testing.assert_array_equal(levels.to_unit(deep, Range(0, 65535)), exact)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_nan_becomes_black_and_infinities_the_ends(dtype):
    image = np.array([[np.nan, np.inf, -np.inf, 30]], dtype)
    for found in (Range(20, 60), Range(25, 25)):
        unit = levels.to_unit(image, found)
        assert unit[0, :3].tolist() == [0, 1, 0]
        assert np.isfinite(unit).all()


def test_a_range_is_said_in_short():
    assert str(Range(7012.0, 8310.5)) == "7012 to 8310.5"
