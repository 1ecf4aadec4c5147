"""Separable filters of image planes: Sobel, Gaussian windows, sums under a window.

A plane lies in two axes of an array of any rank, the last two ([H, W]) unless ``axes``
says otherwise: (1, 2) for [N, H, W, C].  No filter makes up a border: a window of
``size`` pixels leaves ``size - 1`` fewer of them along each axis, and the caller pads.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_SMOOTH = (1.0, 2.0, 1.0)
_DIFFERENCE = (-1.0, 0.0, 1.0)


def gaussian(size: int, sigma: float) -> np.ndarray:
    """[size] float64, one axis of the normalised window; ``sigma`` in pixels."""
    offset = np.arange(size) - (size - 1) / 2
    window = np.exp(-0.5 * (offset / sigma) ** 2)
    return window / window.sum()


def window_sum(
    x: jax.Array, window: np.ndarray, axes: tuple[int, int] = (-2, -1)
) -> jax.Array:
    """Weighted sum around each pixel whose square window lies wholly inside.

    On a CPU give several planes as one array: of separate ones XLA computes the sums
    again in every loop that uses them, which takes ten times as long.

    Args:
      x: floating [..., H, W] or as ``axes`` says, both sides at least ``len(window)``.
      window: [size], one axis of a separable window.
      axes: those of H and W in ``x``.

    Returns:
      The dtype and shape of ``x``, but [H - size + 1, W - size + 1].
    """
    taps = tuple(float(weight) for weight in window)
    for axis in axes:
        x = _correlate(x, taps, axis)
    return x


def sobel(
    x: jax.Array, axes: tuple[int, int] = (-2, -1)
) -> tuple[jax.Array, jax.Array]:
    """Sobel derivatives with the integer kernels, [1, 2, 1] across [-1, 0, 1].

    Args:
      x: floating [..., H, W] or as ``axes`` says, both sides at least 3.
      axes: those of H and W in ``x``.

    Returns:
      Right minus left and lower minus upper, both of the dtype and shape of ``x``, but
      [H - 2, W - 2].

    Raises:
      ValueError: a side is shorter than 3.
    """
    down, across = axes
    if min(x.shape[down], x.shape[across]) < 3:
        raise ValueError(
            f"sobel needs at least 3x3 pixels, got {x.shape[down]}x{x.shape[across]}"
        )
    return (
        _correlate(_correlate(x, _SMOOTH, down), _DIFFERENCE, across),
        _correlate(_correlate(x, _DIFFERENCE, down), _SMOOTH, across),
    )


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _correlate(x: jax.Array, taps: tuple[float, ...], axis: int) -> jax.Array:
    """Correlates one axis, which shrinks by ``len(taps) - 1``."""
    # Shifted sums: in float64 a convolution with one channel or a product with a banded
    # matrix takes five to ten times as long on a CPU.
    size = x.shape[axis] - len(taps) + 1
    return sum(
        tap * jax.lax.slice_in_dim(x, start, start + size, axis=axis)
        for start, tap in enumerate(taps)
        if tap
    )


def _correlate_forward(
    x: jax.Array, taps: tuple[float, ...], axis: int
) -> tuple[jax.Array, None]:
    return _correlate(x, taps, axis), None


def _correlate_backward(
    taps: tuple[float, ...], axis: int, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    # jax's own gradient sums padded copies of the cotangent: several times as slow.
    widths = [(0, 0)] * cotangent.ndim
    widths[axis] = (len(taps) - 1, len(taps) - 1)
    return (_correlate(jnp.pad(cotangent, widths), taps[::-1], axis),)


_correlate.defvjp(_correlate_forward, _correlate_backward)
