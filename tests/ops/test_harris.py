"""Harris response against OpenCV, and the corner mask of Eq. 8."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.ops import harris as module
from hkdnet_jax.ops.harris import corner_mask, harris_response

harris = jax.jit(harris_response)
mask_of = jax.jit(corner_mask)


def opencv(x, k=0.04):
    """`cv2.cornerHarris` plane by plane."""
    x = np.asarray(x, np.float32)
    out = np.zeros_like(x)
    for image in range(x.shape[0]):
        for c in range(x.shape[3]):
            plane = np.ascontiguousarray(x[image, :, :, c])
            out[image, :, :, c] = cv2.cornerHarris(plane, blockSize=3, ksize=3, k=k)
    return out


def noise(shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(values)


def square(size=16, first=5, last=10):
    """A white square on black: four corners, four straight edges."""
    image = np.zeros((1, size, size, 1), np.float32)
    image[:, first : last + 1, first : last + 1] = 1.0
    return image


@pytest.mark.parametrize("h,w", [(16, 16), (13, 5), (2, 2), (2, 5)])
def test_response_equals_opencv_border_included(h, w):
    x = noise((2, h, w, 3))
    got, want = harris(x), opencv(x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_response_takes_another_k():
    x = noise((1, 16, 16, 1))
    got, want = harris_response(x, k=0.06), opencv(x, k=0.06)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("h,w", [(1, 6), (6, 1), (1, 1)])
def test_response_on_one_pixel_wide_planes_has_no_positive_value(h, w):
    response = harris(noise((1, h, w, 2)))
    assert np.all(np.isfinite(response)) and np.max(response) <= 0.0


def test_response_on_a_large_offset():
    # A derivative does not see the offset, at the precision float32 leaves.
    x = noise((1, 12, 12, 1))
    plain, shifted = harris(x), harris(x + 100.0)
    np.testing.assert_allclose(shifted, plain, atol=2e-4 * np.abs(plain).max())


def test_response_of_bfloat16_is_computed_in_float32():
    x = noise((1, 9, 9, 2)).astype(jnp.bfloat16)
    got = harris(x)
    assert got.dtype == jnp.float32
    want = opencv(x.astype(jnp.float32))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("gamma", [0.1, 0.7])
def test_mask_equals_a_numpy_transcription(gamma):
    x = noise((2, 11, 8, 3), seed=3)
    mask = mask_of(x, gamma)
    np.testing.assert_array_equal(mask, ref.corner_mask(np.asarray(x), gamma))
    assert mask.dtype == x.dtype and set(np.unique(mask)) == {0.0, 1.0}


def test_mask_finds_the_four_corners_of_a_square():
    mask = np.asarray(mask_of(jnp.asarray(square())))[0, :, :, 0]
    assert mask.sum() >= 4
    y, x = np.nonzero(mask)
    for cy, cx in [(5, 5), (5, 10), (10, 5), (10, 10)]:
        assert np.any(np.maximum(np.abs(y - cy), np.abs(x - cx)) <= 1)
    distance = (
        np.minimum(np.abs(y - 5), np.abs(y - 10)),
        np.minimum(np.abs(x - 5), np.abs(x - 10)),
    )
    assert np.max(distance) <= 1  # nothing along the edges or inside


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -7.0])
def test_flat_channel_has_no_corner(value):
    # Beside a channel that has corners: each is judged by its own maximum.
    x = np.concatenate([np.full_like(square(), value), square()], axis=-1)
    mask = np.asarray(mask_of(jnp.asarray(x)))
    assert mask[..., 0].sum() == 0 and mask[..., 1].sum() > 0


def test_straight_edges_and_ramps_are_no_corners():
    rows, cols = np.mgrid[:12, :12]
    for plane in (cols > 5, rows > 5, rows + cols > 11, 0.1 * cols, 0.1 * rows):
        # The border mirrors a diagonal edge into a corner of its own: look inside.
        x = jnp.asarray(np.asarray(plane, np.float32)[None, :, :, None])
        response = np.asarray(harris(x))[0, 2:-2, 2:-2, 0]
        assert response.max() <= 1e-9


def test_images_and_channels_of_a_batch_do_not_mix():
    x = noise((2, 8, 8, 2)) * jnp.asarray([1.0, 1000.0])[None, None, None, :]
    single = mask_of(x[1:, :, :, :1])
    np.testing.assert_array_equal(mask_of(x)[1:, :, :, :1], single)


def test_mask_carries_no_gradient():
    x = noise((1, 8, 8, 2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(corner_mask(x) * x**2)))(x)
    np.testing.assert_allclose(gradient, 2 * mask_of(x) * x, rtol=1e-6)


def test_mask_is_the_same_without_jit():
    x = noise((2, 11, 8, 3), seed=3)
    np.testing.assert_array_equal(corner_mask(x), mask_of(x))


@pytest.mark.parametrize("channels,group", [(6, 3), (6, 1), (5, 1)])
def test_mask_in_groups_of_channels(monkeypatch, channels, group):
    x = noise((2, 12, 10, channels), seed=4)
    want = mask_of(x)
    # One more channel would fit, but does not divide their number.
    fitting = (group + (group > 1)) * 4 * 12 * 10
    monkeypatch.setattr(module, "GROUP_BYTES", fitting)
    got, jaxpr = corner_mask(x), str(jax.make_jaxpr(lambda x: corner_mask(x))(x))
    np.testing.assert_array_equal(got, want)
    assert f"length={channels // group}" in jaxpr
    gradient = jax.grad(lambda x: jnp.sum(corner_mask(x) * x**2))(x)
    np.testing.assert_allclose(gradient, 2 * want * x, rtol=1e-6)


def test_training_crops_are_one_group():
    x = jax.ShapeDtypeStruct((64, 72, 72, 64), jnp.float32)
    assert "scan" not in str(jax.make_jaxpr(corner_mask)(x))
