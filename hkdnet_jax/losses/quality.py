"""Image quality: SSIM and PSNR."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.losses.inputs import as_images
from hkdnet_jax.ops.filters import gaussian, window_sum

# Side and sigma of SSIM's Gaussian window.
WINDOW = 11  # pixels
SIGMA = 1.5  # pixels
_K1, _K2 = 0.01, 0.03  # shares of the data range
_MSE_FLOOR = 1e-10

Array = TypeVar("Array", jax.Array, np.ndarray)


def ssim(a: jax.Array, b: jax.Array, *, data_range: float = 1.0) -> jax.Array:
    """Computes the structural similarity (Wang et al. 2004).

    It uses an 11x11 Gaussian window of sigma 1.5 and population (co)variances, and
    takes the mean over the positions where the window fits inside the image. Unlike in
    `dm_pix.ssim` the (co)variances are not clipped, because clipping removes the
    gradient that brings contrast back to a flat patch.

    Args:
      a, b: floating [N, H, W, 1] with H, W >= 11; float64 input is computed in float64,
        other input in float32.
      data_range: difference between the largest and the smallest possible value.

    Returns:
      [N] float32 or float64, 1 for equal images. It is differentiable everywhere.

    Raises:
      ValueError: the shapes are others or differ, or the dtype is not floating-point.
    """
    a, b = (x[..., 0] for x in as_images("ssim", a, b))
    _, height, width = a.shape
    if min(height, width) < WINDOW:
        raise ValueError(
            f"ssim needs images of at least {WINDOW}x{WINDOW}, got {height}x{width}"
        )
    offset_a, offset_b = (
        jax.lax.stop_gradient(x.mean(axis=(1, 2), keepdims=True)) for x in (a, b)
    )
    a, b = a - offset_a, b - offset_b
    moments = window_sum(
        jnp.stack([a, b, a * a + b * b, a * b]), gaussian(WINDOW, SIGMA)
    )
    similarities = similarity(*moments, offset_a, offset_b, data_range=data_range)
    # The mean is over the distances from 1, because a float32 sum of many values near 1
    # is 5e-6 off.
    return 1.0 - (1.0 - similarities).mean(axis=(1, 2))


def similarity(
    mean_a: Array,
    mean_b: Array,
    mean_of_squares: Array,
    mean_of_product: Array,
    offset_a: Array,
    offset_b: Array,
    *,
    data_range: float,
) -> Array:
    """Computes SSIM window by window from the moments of two images.

    (Co)variances do not change when a constant, the offset, is subtracted from an
    image, and near zero more digits of their differences are kept.

    Args:
      mean_a, mean_b: weighted means over the window of the images without offsets.
      mean_of_squares: of the sum of both images' squares, without offsets.
      mean_of_product: of the product of both images, without offsets.
      offset_a, offset_b: what was subtracted from the images.
      data_range: difference between the largest and the smallest possible value.

    Returns:
      An array of the moments' type, NumPy's or JAX's, and of their shape.
    """
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    variances = mean_of_squares - mean_a**2 - mean_b**2
    covariance = mean_of_product - mean_a * mean_b
    mean_a, mean_b = mean_a + offset_a, mean_b + offset_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return luminance * structure


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the peak signal-to-noise ratio in dB for a data range of 1.

    The mean squared error is taken as at least 1e-10, so equal images give 100 dB.

    Args:
      a, b: floating [N, H, W, 1]; float64 input is computed in float64, other input in
        float32.

    Returns:
      [N] float32 or float64, at most 100.

    Raises:
      ValueError: the shapes are others or differ, or the dtype is not floating-point.
    """
    a, b = as_images("psnr", a, b)
    error = jnp.square(a - b).mean(axis=(1, 2, 3))
    return decibels(jnp.maximum(error, _MSE_FLOOR))


def decibels(mean_squared_error: jax.Array, *, data_range: float = 1.0) -> jax.Array:
    """Returns 10 log10(data_range^2 / mean_squared_error), infinite for no error."""
    return -10.0 * jnp.log10(mean_squared_error / data_range**2)
