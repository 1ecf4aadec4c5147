"""Windows of images on the host, in float64: what `ops.filters` is on the device.

Nothing here is compiled, so an image of a new size costs no more than another one.  A
plane spans the last two axes, and no filter pads.
"""

import numpy as np
from scipy import ndimage

_SMOOTH = (1.0, 2.0, 1.0)
_DIFFERENCE = (-1.0, 0.0, 1.0)


def window_sum(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Computes the weighted sum around each pixel whose square window fits inside.

    Args:
      x: float64 [..., H, W], both sides at least ``len(window)``.
      window: [size], one axis of a separable window of odd size.

    Returns:
      [..., H - size + 1, W - size + 1].
    """
    for axis in (-2, -1):
        x = _correlate(x, window, axis)
    return x


def sobel(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel derivatives, right minus left and lower minus upper, of the plain kernel.

    [..., H, W] becomes [..., H - 2, W - 2].
    """
    return (
        _correlate(_correlate(x, _SMOOTH, -2), _DIFFERENCE, -1),
        _correlate(_correlate(x, _DIFFERENCE, -2), _SMOOTH, -1),
    )


def _correlate(x: np.ndarray, taps: np.ndarray | tuple, axis: int) -> np.ndarray:
    half = len(taps) // 2
    full = ndimage.correlate1d(x, taps, axis, mode="constant")
    inside = slice(half, x.shape[axis] - half)
    return full[..., inside, :] if axis == -2 else full[..., inside]
