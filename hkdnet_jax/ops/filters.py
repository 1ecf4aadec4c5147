"""Separable filters of image planes: Sobel, Gaussian windows, sums under a window.

A plane spans two axes of an array of any rank: the last two ([H, W]) unless ``axes``
names others, such as (1, 2) for [N, H, W, C].  No filter pads: a window of ``size``
pixels shortens each axis by ``size - 1``, and a caller who wants a border pads first.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_SMOOTH = (1.0, 2.0, 1.0)
_DIFFERENCE = (-1.0, 0.0, 1.0)


def gaussian(size: int, sigma: float) -> np.ndarray:
    """Returns one axis of a normalised Gaussian window, [size] float64.

    ``size`` and ``sigma`` are in pixels.
    """
    offset = np.arange(size) - (size - 1) / 2
    window = np.exp(-0.5 * (offset / sigma) ** 2)
    return window / window.sum()


def window_sum(
    x: jax.Array, window: np.ndarray, axes: tuple[int, int] = (-2, -1)
) -> jax.Array:
    """Computes the weighted sum around each pixel whose square window fits inside.

    On a CPU, pass several planes as one array: for separate arrays XLA recomputes the
    sums in every loop that uses them, which takes ten times as long.

    Args:
      x: floating [..., H, W] or as ``axes`` says, both sides at least ``len(window)``.
      window: [size], one axis of a separable window.
      axes: the axes of H and W in ``x``.

    Returns:
      An array of the dtype and shape of ``x``, except that H and W become
      H - size + 1 and W - size + 1.
    """
    taps = tuple(float(weight) for weight in window)
    for axis in axes:
        x = _correlate(x, taps, axis)
    return x


def sobel(
    x: jax.Array, axes: tuple[int, int] = (-2, -1)
) -> tuple[jax.Array, jax.Array]:
    """Computes Sobel derivatives with the integer kernel [1, 2, 1] x [-1, 0, 1].

    Args:
      x: floating [..., H, W] or as ``axes`` says, both sides at least 3.
      axes: the axes of H and W in ``x``.

    Returns:
      The derivatives right minus left and lower minus upper, each of the dtype and
      shape of ``x``, except that H and W become H - 2 and W - 2.

    Raises:
      ValueError: a side is shorter than 3.
    """
    down, across = axes
    # One by one, because sizes may be symbols, of which none is the smaller.
    if x.shape[down] < 3 or x.shape[across] < 3:
        raise ValueError(
            f"sobel needs at least 3x3 pixels, got {x.shape[down]}x{x.shape[across]}"
        )
    return (
        _correlate(_correlate(x, _SMOOTH, down), _DIFFERENCE, across),
        _correlate(_correlate(x, _DIFFERENCE, down), _SMOOTH, across),
    )


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _correlate(x: jax.Array, taps: tuple[float, ...], axis: int) -> jax.Array:
    """Correlates along one axis, which shrinks by ``len(taps) - 1``."""
    # The sums are shifted ones, because in float64 a convolution with one channel or a
    # product with a banded matrix takes five to ten times as long on a CPU.
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
    # jax's own gradient sums padded copies of the cotangent, which is several times
    # slower.
    widths = [(0, 0)] * cotangent.ndim
    widths[axis] = (len(taps) - 1, len(taps) - 1)
    return (_correlate(jnp.pad(cotangent, widths), taps[::-1], axis),)


_correlate.defvjp(_correlate_forward, _correlate_backward)
