"""Arithmetic on 8-bit pictures."""

from fractions import Fraction

import numpy as np
import pytest
from command_fixtures import make_pair

from hkdnet_jax.common import arrays
from hkdnet_jax.evaluation import pictures


def test_stretch():
    image = np.array([[10, 11], [12, 13]], np.uint8)
    np.testing.assert_array_equal(pictures.stretch(image), [[0, 85], [170, 255]])
    rounded = np.array([[0, 1, 33, 100]], np.uint8)  # 2.55 and 84.15
    np.testing.assert_array_equal(pictures.stretch(rounded), [[0, 3, 84, 255]])
    full = make_pair(1)[0].copy()
    full.flat[:2] = 0, 255
    np.testing.assert_array_equal(pictures.stretch(full), full)
    assert pictures.stretch(full).dtype == np.uint8
    assert not pictures.stretch(np.full((3, 3), 77, np.uint8)).any()


def test_stretch_rounds_the_exact_quotient():
    # The quotient depends on the distances from the minimum alone.
    for span in range(1, 256):
        distances = np.arange(span + 1)
        low = 255 - span
        got = pictures.stretch((low + distances)[None].astype(np.uint8))[0]
        # Python rounds a fraction exactly, half to even.
        assert got.tolist() == [round(Fraction(255 * int(d), span)) for d in distances]


def test_average_and_enlarging():
    ir, vis = np.full((2, 3), 90, np.uint8), np.full((2, 3), 30, np.uint8)
    np.testing.assert_array_equal(pictures.average(ir, vis), np.full((2, 3), 70))
    np.testing.assert_array_equal(pictures.enlarge(ir, 3), np.full((6, 9), 90))


@pytest.mark.parametrize(
    ("shape", "multiple", "cropped"),
    [((24, 30), 2, (24, 30)), ((25, 31), 3, (24, 30)), ((5, 17), 12, (0, 12))],
)
def test_cropping(shape, multiple, cropped):
    image = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    got = pictures.crop_to_multiple(image, multiple)
    np.testing.assert_array_equal(got, image[: cropped[0], : cropped[1]])
    assert got.shape == cropped


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_degrading_is_what_training_does(scale):
    noise = np.random.default_rng(scale).integers(0, 256, (24, 36), np.uint8)
    for image in (make_pair(4, 24, 36)[0], noise):
        small = arrays.degrade(pictures.as_batch(image), scale)
        want = np.asarray(arrays.to_uint8(small))[0, :, :, 0]
        got = pictures.degrade_picture(image, scale)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)


def test_degrading_needs_a_multiple_of_the_scale():
    with pytest.raises(ValueError, match="24x36 is not divisible by the scale 5"):
        pictures.degrade_picture(make_pair(4, 24, 36)[0], 5)
