"""SSIM and PSNR against scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_images import KINDS, float_images, reference_ssim
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

from hkdnet_jax.losses import quality

# Jitted once for all tests that only look at numbers; `test_jit_changes_nothing`
# compares with the plain functions.
ssim = jax.jit(quality.ssim, static_argnames="data_range")
ssim_gradient = jax.jit(jax.grad(lambda a, b: quality.ssim(a, b).sum()))


# SSIM


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_equals_scikit_image(kind):
    a, b = float_images(kind)
    got = ssim(jnp.asarray(a), jnp.asarray(b))
    assert got.shape == (3,) and got.dtype == jnp.float32
    # Where black meets white, a flat window's variance is the difference of two numbers
    # near 0.25. One ulp of theirs (6e-8 * 0.25) is 2e-5 of the constant (0.03)^2 that
    # stands there alone, and how many there are depends on the CPU's order of summing
    # (3.3e-6 seen in the mean).
    atol = 1e-5 if kind == "saturated" else 2e-6
    np.testing.assert_allclose(got, reference_ssim(a, b), atol=atol, rtol=0)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_of_float64_images_is_computed_in_float64(data_range):
    a, b = (np.float64(x) for x in float_images("smooth"))
    with jax.enable_x64(True):
        got = ssim(a * data_range, b * data_range, data_range=data_range)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, reference_ssim(a, b), rtol=1e-12)


def test_ssim_of_the_smallest_image_is_one_window():
    a, b = float_images("smooth", 11, 11, 2)
    got = ssim(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(got, reference_ssim(a, b), atol=1e-5, rtol=0)


def test_ssim_is_symmetric_and_one_for_equal_images():
    a, b = (jnp.asarray(x) for x in float_images("smooth"))
    np.testing.assert_allclose(ssim(a, b), ssim(b, a), atol=1e-6)
    np.testing.assert_allclose(ssim(a, a), 1.0, atol=1e-6)
    assert np.all(ssim(a, b) < 1)


def test_ssim_gradient_equals_finite_differences_of_scikit_image():
    a, b = float_images("smooth", 16, 18, 1)
    gradient = ssim_gradient(a, b)
    step = 1e-4
    for row, column in [(0, 0), (1, 9), (8, 8), (15, 17), (12, 3)]:
        moved = np.zeros(a.shape)
        moved[0, row, column] = step
        high = reference_ssim(a.astype(np.float64) + moved, b)[0]
        low = reference_ssim(a.astype(np.float64) - moved, b)[0]
        expected = (high - low) / (2 * step)
        assert gradient[0, row, column, 0] == pytest.approx(
            expected, rel=5e-3, abs=1e-6
        )


def test_ssim_gradient_brings_texture_to_a_flat_image():
    _, target = float_images("smooth")
    flat = jnp.full(target.shape, target.mean())
    gradient = ssim_gradient(flat, target)
    inner = (slice(None), slice(5, -5), slice(5, -5))
    detail = target - ndimage.gaussian_filter(target, (0, 1.5, 1.5, 0))
    correlation = np.corrcoef(np.ravel(gradient[inner]), np.ravel(detail[inner]))[0, 1]
    assert correlation > 0.5


@pytest.mark.parametrize("shape", [(1, 10, 64, 1), (1, 64, 10, 1)])
def test_ssim_refuses_images_smaller_than_the_window(shape):
    with pytest.raises(ValueError, match=r"at least 11x11, got \d+x\d+"):
        quality.ssim(jnp.zeros(shape), jnp.zeros(shape))


# PSNR


def test_psnr_equals_scikit_image():
    a, b = float_images("smooth")
    got = quality.psnr(jnp.asarray(a), jnp.asarray(b))
    expected = [
        peak_signal_noise_ratio(x.astype(float), y.astype(float), data_range=1.0)
        for x, y in zip(a, b, strict=True)
    ]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_decibels_by_hand():
    errors = jnp.array([1.0, 0.01, 0.0])
    np.testing.assert_allclose(quality.decibels(errors), [0, 20, np.inf], atol=1e-6)
    got = quality.decibels(errors, data_range=100.0)
    np.testing.assert_allclose(got, [40, 60, np.inf], rtol=1e-6)


def test_psnr_of_equal_images_is_100_db_with_a_finite_gradient():
    a, _ = (jnp.asarray(x) for x in float_images("smooth"))
    np.testing.assert_allclose(quality.psnr(a, a), 100.0, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: quality.psnr(x, a).sum())(a)).all()


# Both

IMAGE = (2, 16, 16, 1)


@pytest.mark.parametrize("function", [quality.ssim, quality.psnr])
def test_bfloat16_input_is_summed_in_float32(function):
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in float_images("smooth"))
    got, want = function(a, b), function(a.astype(jnp.float32), b.astype(jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("function", [quality.ssim, quality.psnr])
def test_jit_changes_nothing(function):
    a, b = (jnp.asarray(x) for x in float_images("smooth"))
    got, want = jax.jit(function)(a, b), function(a, b)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (quality.ssim, (IMAGE, (1, 16, 16, 1))),  # would broadcast
        (quality.ssim, ((2, 16, 16, 3), (2, 16, 16, 3))),
        (quality.ssim, ((16, 16, 1), (16, 16, 1))),
        (quality.psnr, (IMAGE, (2, 16, 1, 1))),
        (quality.psnr, ((2, 16, 16), (2, 16, 16))),
    ],
)
def test_wrong_shapes_are_refused(function, shapes):
    with pytest.raises(ValueError, match=r"\(\d+, \d+, "):
        function(*(jnp.zeros(shape) for shape in shapes))


def test_integer_images_are_refused():
    x = jnp.zeros(IMAGE, jnp.uint8)
    for function in (quality.ssim, quality.psnr):
        with pytest.raises(ValueError, match="floating-point input, got uint8"):
            function(x, x)
