"""Image arrays: conversion, degradation and resizing against PIL."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from jaxtyping import TypeCheckError
from PIL import Image

from hkdnet_jax.common.arrays import (
    degrade,
    degrade_corner,
    normalize_minmax,
    resize_bicubic,
    to_float,
    to_uint8,
)

SCALES = [2, 3, 4]


def batch(plane):
    return jnp.asarray(plane)[None, :, :, None]


def pil_bilinear(plane, scale):
    h, w = plane.shape
    small = (w // scale, h // scale)
    return np.asarray(Image.fromarray(plane).resize(small, Image.Resampling.BILINEAR))


@functools.partial(jax.jit, static_argnums=1)
def degraded(levels, scale):
    return to_uint8(degrade(to_float(levels), scale))


def degraded_levels(plane, scale):
    return np.asarray(degraded(batch(plane), scale))[0, :, :, 0]


def planes():
    """What a training crop can hold: noise, ramps, saturation, thin lines."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:96, :132]
    return {
        "noise": rng.integers(0, 256, (96, 132)),
        "extremes": 255 * rng.integers(0, 2, (96, 132)),
        "ramp": (rows + cols) % 256,
        "lines": 255 * (cols % 5 == 0),
        "white": np.full((96, 132), 255),
        "black": np.zeros((96, 132)),
    }


def test_the_annotations_are_checked():
    with pytest.raises(TypeCheckError, match="degrade"):
        degrade(jnp.zeros((8, 8, 1)), 2)  # no batch axis
    with pytest.raises(TypeCheckError, match="normalize_minmax"):
        jax.jit(normalize_minmax)(jnp.zeros((1, 8, 8, 3)))


# --- conversion -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_to_float_maps_the_whole_range_onto_0_1(dtype):
    top = np.iinfo(dtype).max
    values = np.asarray([[0, 1, top // 2, top]], dtype)
    got = to_float(values)
    assert got.dtype == jnp.float32 and got.shape == values.shape
    np.testing.assert_allclose(got, values / float(top), rtol=1e-6)
    assert float(got[0, 0]) == 0.0 and float(got[0, -1]) == 1.0
    np.testing.assert_array_equal(to_float(jnp.asarray(values)), got)
    np.testing.assert_array_equal(jax.jit(to_float)(values), got)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int8, bool])
def test_to_float_refuses_other_types(dtype):
    with pytest.raises(TypeError, match=np.dtype(dtype).name):
        to_float(np.zeros((1, 2, 2, 1), dtype))


def test_uint8_round_trip_is_exact():
    levels = np.arange(256, dtype=np.uint8)
    back = to_uint8(to_float(levels))
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(back, levels)
    np.testing.assert_array_equal(
        jax.jit(lambda x: to_uint8(to_float(x)))(levels), back
    )


def test_to_uint8_clips_and_rounds():
    x = jnp.asarray([-1.0, -0.001, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 7.0])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 0, 1, 255, 255, 255])


def test_uint16_comes_down_to_uint8_by_rounding():
    values = np.arange(0, 65536, 7, dtype=np.uint16)
    want = np.floor(values / 257.0 + 0.5)
    np.testing.assert_array_equal(to_uint8(to_float(values)), want)


# --- degradation ----------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", planes())
def test_degrade_equals_pil(scale, name):
    plane = planes()[name].astype(np.uint8)
    got = degraded_levels(plane, scale)
    np.testing.assert_array_equal(got, pil_bilinear(plane, scale))


@pytest.mark.parametrize("scale", SCALES)
def test_degrade_of_real_images_equals_the_authors_files(scale, real_data):
    root = real_data / "hkdnet_demo"
    files = sorted((root / "hr").glob("*/*.png"))
    assert len(files) == 4
    for file in files:
        plane = np.asarray(Image.open(file))
        low = np.asarray(
            Image.open(root / f"lr_x{scale}" / file.parent.name / file.name)
        )
        assert plane.dtype == low.dtype == np.uint8
        np.testing.assert_array_equal(degraded_levels(plane, scale), low)


@pytest.mark.parametrize("scale", SCALES)
def test_degrade_returns_levels_of_an_8_bit_file(scale):
    x = np.random.default_rng(1).random((2, 24, 36, 1)).astype(np.float32)
    for function in (degrade, jax.jit(degrade, static_argnums=1)):
        low = function(jnp.asarray(x), scale)
        assert low.dtype == jnp.float32
        assert low.shape == (2, 24 // scale, 36 // scale, 1)
        assert np.min(low) >= 0.0 and np.max(low) <= 1.0
        levels = np.asarray(low) * 255.0
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)


def test_degrade_by_1_only_rounds():
    levels = np.random.default_rng(2).integers(0, 256, (6, 8)).astype(np.uint8)
    np.testing.assert_array_equal(degraded_levels(levels, 1), levels)


def triangles(levels, scale, side):
    """Triangle filters, `scale` times as wide as the bilinear one, in NumPy."""
    for _ in range(2):  # along the rows, then the columns, turned over each time
        centres = (np.arange(side) + 0.5) * scale
        places = np.arange(levels.shape[1]) + 0.5
        weights = np.maximum(0, 1 - np.abs(centres[:, None] - places) / scale)
        weights /= weights.sum(axis=1, keepdims=True)
        levels = np.floor(weights @ levels.T + 0.5)
    return levels


corner = jax.jit(
    lambda levels, scale: to_uint8(degrade_corner(to_float(levels), scale, 12))
)


@pytest.mark.parametrize("scale", [1.0, 1.7, 2.0, 3.31, 4.0])
def test_degrade_corner_and_what_lies_beyond_it(scale):
    levels = np.random.default_rng(3).integers(0, 256, (53, 57)).astype(np.uint8)
    got = np.asarray(corner(batch(levels), scale))[0, :, :, 0].astype(int)
    want = triangles(levels, scale, 12)
    off = np.abs(got - want)
    assert off.max() <= 1 and np.mean(off > 0) < 0.02
    assert np.mean(off[-1] > 0) < 0.1 and np.mean(off[:, -1] > 0) < 0.1
    end = round(12 * scale)
    without = triangles(levels[:end, :end], scale, 12)
    same = np.abs(got - without) <= 1
    assert same[:-1, :-1].all()
    if scale > 1:  # the last row and column are also made of pixels beyond the corner
        assert not same[-1].all() and not same[:, -1].all()


def test_degrade_corner_of_an_image_that_ends_there():
    levels = np.random.default_rng(4).integers(0, 256, (36, 36)).astype(np.uint8)
    got = np.asarray(corner(batch(levels), 3.0))[0, :, :, 0].astype(int)
    off = np.abs(got - pil_bilinear(levels, 3))
    assert off.max() <= 1 and np.mean(off > 0) < 0.02


@pytest.mark.parametrize("shape", [(7, 8), (8, 7)])
def test_degrade_names_the_size_that_does_not_divide(shape):
    with pytest.raises(ValueError, match=rf"{shape[0]}x{shape[1]}.*scale 2"):
        degrade(jnp.zeros((1, *shape, 1)), 2)


# --- bicubic --------------------------------------------------------------------

enlarged = jax.jit(resize_bicubic, static_argnums=1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("h,w", [(7, 9), (2, 1)])
def test_bicubic_equals_pil_border_included(scale, h, w):
    plane = np.random.default_rng(3).random((h, w)).astype(np.float32)
    image = Image.fromarray(plane)
    assert image.mode == "F"
    size = (w * scale, h * scale)
    want = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    got = enlarged(batch(plane), scale)
    assert got.shape == (1, h * scale, w * scale, 1)
    np.testing.assert_allclose(got[0, :, :, 0], want, atol=2e-6)
    # The transcription that the student's reference uses is the same filter.
    np.testing.assert_allclose(ref.bicubic(batch(plane), scale), got, atol=2e-6)


def test_bicubic_overshoots_and_is_not_clipped():
    plane = np.zeros((8, 8), np.float32)
    plane[:, 4:] = 1.0
    got = enlarged(batch(plane), 3)
    assert np.min(got) < -0.05 and np.max(got) > 1.05


def test_bicubic_keeps_images_and_channels_apart():
    x = np.random.default_rng(4).random((2, 4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(enlarged(x, 2), ref.bicubic(x, 2), atol=2e-6)


# --- normalisation --------------------------------------------------------------

stretched = jax.jit(normalize_minmax)


def test_minmax_stretches_each_image_by_itself():
    x = np.random.default_rng(5).uniform(0.2, 0.7, (3, 6, 7, 1)).astype(np.float32)
    x[1] *= 0.01
    got = np.asarray(stretched(jnp.asarray(x)))
    for image, out in zip(x, got, strict=True):
        want = (image - image.min()) / (image.max() - image.min())
        np.testing.assert_allclose(out, want, atol=1e-5)
        assert out.min() == 0.0 and abs(out.max() - 1.0) < 1e-6


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_minmax_of_a_flat_image_is_black_and_finite(value):
    flat = jnp.full((1, 4, 5, 1), value)
    np.testing.assert_array_equal(stretched(flat), np.zeros(flat.shape))
