"""Sums under a separable window, shared by MS_SSIM, SSIM and VIF."""

import jax
import numpy as np


def gaussian(size: int, sigma: float) -> np.ndarray:
    """[size] float64, one axis of the normalised window; ``sigma`` in pixels."""
    offset = np.arange(size) - (size - 1) / 2
    window = np.exp(-0.5 * (offset / sigma) ** 2)
    return window / window.sum()


def window_sum(x: jax.Array, window: np.ndarray) -> jax.Array:
    """Weighted sum around each pixel whose square window lies wholly inside.

    Args:
      x: floating [..., H, W], both sides at least ``len(window)``.
      window: [size], one axis of a separable window.

    Returns:
      [..., H - size + 1, W - size + 1] of the dtype of ``x``.
    """
    # Shifted sums: XLA's float64 convolution with one channel, or a product with a
    # banded matrix, takes ten times as long on a CPU.
    for axis in (x.ndim - 2, x.ndim - 1):
        stop = x.shape[axis] - len(window) + 1
        x = sum(
            float(weight) * jax.lax.slice_in_dim(x, i, i + stop, axis=axis)
            for i, weight in enumerate(window)
        )
    return x
