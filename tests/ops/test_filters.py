"""Sobel, Gaussian windows and their sums against SciPy and OpenCV."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hkdnet_jax.ops.filters import gaussian, sobel, window_sum

PLANE = (-2, -1)
NHWC = (1, 2)


def noise(shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(values, np.float32)


def planes(x):
    """[N, H, W, C] as [N, C, H, W]."""
    return np.moveaxis(np.asarray(x), 3, 1)


def each_plane(function, x):
    """`function` of every [H, W] in [N, C, H, W], in float64."""
    return np.stack([[function(np.float64(plane)) for plane in image] for image in x])


# --- Sobel --------------------------------------------------------------------------


@pytest.mark.parametrize("h,w", [(9, 12), (3, 3), (3, 8)])
def test_sobel_equals_scipy_in_both_layouts(h, w):
    x = noise((2, h, w, 3))
    of_images, of_planes = sobel(jnp.asarray(x), NHWC), sobel(jnp.asarray(planes(x)))
    for image, plane, axis in zip(of_images, of_planes, (1, 0), strict=True):
        assert image.shape == (2, h - 2, w - 2, 3) and image.dtype == jnp.float32
        want = each_plane(lambda p, a=axis: ndimage.sobel(p, a), planes(x))
        np.testing.assert_allclose(plane, want[..., 1:-1, 1:-1], atol=2e-6)
        np.testing.assert_array_equal(plane, planes(image))


def test_sobel_equals_opencv():
    x = noise((9, 12))
    right, down = sobel(jnp.asarray(np.pad(x, 1, mode="reflect")))
    for got, dx, dy in ((right, 1, 0), (down, 0, 1)):
        np.testing.assert_allclose(got, cv2.Sobel(x, cv2.CV_32F, dx, dy), atol=2e-6)


def test_sobel_of_ramps_by_hand():
    y, x = jnp.mgrid[:5, :6].astype(jnp.float32)
    right, down = sobel(2 * x - 3 * y)
    assert np.all(right == 16) and np.all(down == -24)


@pytest.mark.parametrize("shape,axes", [((2, 9), PLANE), ((1, 9, 2, 4), NHWC)])
def test_small_images_have_no_sobel(shape, axes):
    with pytest.raises(ValueError, match=r"at least 3x3 pixels, got (2x9|9x2)"):
        sobel(jnp.zeros(shape), axes)


# --- Windows ------------------------------------------------------------------------


@pytest.mark.parametrize("size,sigma", [(11, 1.5), (3, 0.6), (17, 3.4)])
def test_gaussian_equals_opencv(size, sigma):
    window = gaussian(size, sigma)
    assert window.dtype == np.float64 and window.shape == (size,)
    want = cv2.getGaussianKernel(size, sigma, cv2.CV_64F)[:, 0]
    np.testing.assert_allclose(window, want, rtol=1e-12)


def test_gaussian_sum_equals_scipy_in_both_layouts():
    x, window = noise((2, 15, 19, 3)), gaussian(11, 1.5)
    image = jax.jit(lambda x: window_sum(x, window, NHWC))(x)
    plane = jax.jit(lambda x: window_sum(x, window))(planes(x))
    # Truncated at 5 pixels, which is the window of 11.
    want = each_plane(lambda p: ndimage.gaussian_filter(p, 1.5, radius=5), planes(x))
    assert image.shape == (2, 5, 9, 3) and image.dtype == jnp.float32
    np.testing.assert_allclose(plane, want[..., 5:-5, 5:-5], atol=1e-6)
    np.testing.assert_array_equal(plane, planes(image))


def test_a_lopsided_window_is_not_turned_round():
    x, window = noise((7, 9)), np.array([1.0, 0.0, -2.0, 5.0])
    want = [
        [window @ np.float64(x[i : i + 4, j : j + 4]) @ window for j in range(6)]
        for i in range(4)
    ]
    np.testing.assert_allclose(window_sum(jnp.asarray(x), window), want, atol=1e-4)


def test_sums_of_levels_are_exact_in_float64():
    x = np.random.default_rng(0).integers(0, 256, (13, 12)).astype(np.float64)
    with jax.enable_x64(True):
        got = jax.jit(lambda x: window_sum(x, np.ones(11)))(x * x)
    want = np.lib.stride_tricks.sliding_window_view(x * x, (11, 11)).sum(axis=(2, 3))
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, want)


# --- Gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("axes", [PLANE, NHWC])
@pytest.mark.parametrize("transform", [jax.grad, lambda f: jax.vmap(jax.grad(f))])
def test_gradients_are_the_transposed_filters(axes, transform):
    # The filters are linear, so the gradient of <c, f(x)> is that of a matrix: found
    # column by column, as the response to each pixel.
    x = noise((2, 5, 6, 2) if axes == NHWC else (2, 5, 6))

    def filters(x):
        lopsided = window_sum(x, np.array([1.0, -2.0, 4.0]), axes)
        return jnp.stack([*sobel(x, axes), lopsided])

    pixels = np.eye(x.size, dtype=np.float32).reshape(x.size, *x.shape)
    responses = jax.jit(jax.vmap(filters))(pixels)
    cotangent = noise(responses.shape[1:], seed=1)
    want = np.reshape([np.vdot(cotangent, r) for r in responses], x.shape)
    gradient = transform(lambda x: jnp.vdot(cotangent, filters(x)))
    batch = x if transform is jax.grad else x[None]
    got = jax.jit(gradient)(jnp.asarray(batch)).reshape(x.shape)
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_of_squares_are_finite_where_the_image_is_flat(value):
    def energy(x):
        right, down = sobel(x, NHWC)
        blurred = window_sum(x, gaussian(11, 1.5), NHWC)
        return (right**2).sum() + (down**2).sum() + (blurred**2).sum()

    gradient = jax.jit(jax.grad(energy))(jnp.full((1, 12, 13, 2), value))
    assert np.isfinite(gradient).all()
