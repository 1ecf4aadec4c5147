"""Image quality: SSIM, PSNR."""

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.losses.inputs import as_images

_WINDOW = 11  # pixels
_SIGMA = 1.5  # pixels
_C1 = 0.01**2  # (K1 * data range)^2
_C2 = 0.03**2  # (K2 * data range)^2
_MSE_FLOOR = 1e-10


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity (Wang et al. 2004), data range 1.

    11x11 Gaussian window of sigma 1.5, population (co)variances, mean over the
    positions where the window lies wholly inside the image. Unlike `dm_pix.ssim` the
    (co)variances are not clipped: clipping takes away the gradient that brings
    contrast back to a flat patch.

    Args:
      a, b: [N, H, W, 1] with H, W >= 11.

    Returns:
      [N] float32, 1 for equal images. Differentiable everywhere.
    """
    a, b = as_images("ssim", a, b)
    _, height, width, _ = a.shape
    if min(height, width) < _WINDOW:
        raise ValueError(
            f"ssim needs images of at least {_WINDOW}x{_WINDOW}, got {height}x{width}"
        )
    rows, columns = _gaussian_rows(height), _gaussian_rows(width)

    def local_mean(x: jax.Array) -> jax.Array:
        # Two banded matrix products: on a CPU many times faster, forward and backward,
        # than convolutions with one channel. HIGHEST, since the variances are small
        # differences that TF32 or bfloat16 products would drown.
        return jnp.einsum(
            "ih,nhwc,jw->nijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST
        )

    # (Co)variances do not change when a constant is taken off an image, and near zero
    # float32 keeps more digits of their differences.
    offset_a, offset_b = (
        jax.lax.stop_gradient(x.mean(axis=(1, 2, 3), keepdims=True)) for x in (a, b)
    )
    a, b = a - offset_a, b - offset_b
    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + offset_a, mean_b + offset_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    # The mean of the distances from 1: a float32 sum of many values near 1 is 5e-6 off.
    return 1.0 - (1.0 - luminance * structure).mean(axis=(1, 2, 3))


def _gaussian_rows(size: int) -> jax.Array:
    """[size - 10, size]: row i holds the normalised window over pixels i to i + 10."""
    offset = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-0.5 * (offset / _SIGMA) ** 2)
    window /= window.sum()
    matrix = np.zeros((size - _WINDOW + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + _WINDOW] = window
    return jnp.asarray(matrix, jnp.float32)


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, data range 1.

    The mean squared error is taken as at least 1e-10, so equal images give 100 dB.

    Args:
      a, b: [N, H, W, 1].

    Returns:
      [N] float32, at most 100.
    """
    a, b = as_images("psnr", a, b)
    error = jnp.square(a - b).mean(axis=(1, 2, 3))
    return -10.0 * jnp.log10(jnp.maximum(error, _MSE_FLOOR))


def sobel(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sobel derivatives along x (right minus left) and y (lower minus upper).

    The kernels are the integer ones, [1, 2, 1] across [-1, 0, 1], not normalised. Only
    the interior is returned, so no border is made up.

    Args:
      x: [N, H, W, C] with H, W >= 3.

    Returns:
      Two arrays [N, H - 2, W - 2, C] of the dtype of ``x``.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < 3:
        raise ValueError(f"sobel needs [N, H, W, C] of at least 3x3, got {x.shape}")

    def smooth(y: jax.Array, axis: int) -> jax.Array:
        first, middle, last = (_window_slice(y, axis, start) for start in (0, 1, 2))
        return first + 2 * middle + last

    def difference(y: jax.Array, axis: int) -> jax.Array:
        return _window_slice(y, axis, 2) - _window_slice(y, axis, 0)

    return smooth(difference(x, 2), 1), smooth(difference(x, 1), 2)


def _window_slice(x: jax.Array, axis: int, start: int) -> jax.Array:
    """All but two entries along ``axis``, from ``start`` on."""
    return jax.lax.slice_in_dim(x, start, start + x.shape[axis] - 2, axis=axis)
