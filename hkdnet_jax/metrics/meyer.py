"""One level of the discrete Meyer wavelet transform, like MATLAB's `dwt2(x, 'dmey')`.

MATLAB's filter has 102 taps; PyWavelets' `dmey` has 62 and gives a different FMI_w.
"""

import functools

import numpy as np
from jaxtyping import Float64

_TAPS = 102
_BORDER = _TAPS - 1  # samples added on each side before the convolution


@functools.cache
def scaling_filter() -> Float64[np.ndarray, "102"]:
    """Returns the 102 taps of the reconstruction low-pass filter, float64.

    The Meyer scaling function's spectrum is 1 below pi/3, falls to 0 at 2 pi/3 as
    cos(pi/2 nu(3w/pi - 1)), nu(x) = x^4 (35 - 84 x + 70 x^2 - 20 x^3); the taps are its
    inverse Fourier transform at -50..50 and a final zero, scaled to the sum sqrt(2).
    Source: Meyer 1990; Daubechies, "Ten Lectures on Wavelets", 1992.
    """
    # The trapezoidal rule converges fast, because the spectrum as an even periodic
    # function of w has three continuous derivatives.
    w = np.linspace(0.0, np.pi, 2**14 + 1)
    x = np.clip(3 * w / np.pi - 1, 0.0, 1.0)
    nu = x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3)
    spectrum = np.cos(np.pi / 2 * nu)
    taps = np.zeros(_TAPS)
    for j in range(51):
        taps[50 + j] = taps[50 - j] = np.trapezoid(spectrum * np.cos(w * j), w)
    return taps * np.sqrt(2) / taps.sum()


def _halve(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Filters [H, W] along H and keeps every second sample: [(H + 101) // 2, W].

    The border is mirrored with its edge sample repeated.
    """
    height = image.shape[0]
    rows = (height + _BORDER) // 2
    padded = np.pad(image, ((_BORDER, _BORDER), (0, 0)), mode="symmetric")
    # Output k of the convolution is sum over t of taps[t] * padded[2 k + 102 - t].
    # Every output is summed in the same order, so that a flat area stays exactly flat:
    # FMI depends on the rank order in a window, and would see structure in the rounding
    # errors of sums in varying order, as in an FFT or a blocked matrix product.
    phases = padded[0::2], padded[1::2]
    total = np.zeros((rows, image.shape[1]), image.dtype)
    for t in range(_TAPS):
        start = _TAPS - t
        total += taps[t] * phases[start % 2][start // 2 : start // 2 + rows]
    return total


def mosaic(
    image: Float64[np.ndarray, "h w"],
) -> Float64[np.ndarray, "2*((h+101)//2) 2*((w+101)//2)"]:
    """Computes the four sub-bands of a float64 [H, W] image in one array.

    Returns:
      [2 h, 2 w] with h = (H + 101) // 2 and w likewise.  The top left is the
      approximation, the top right low-pass along the row and high-pass along the
      column, the bottom left the reverse, the bottom right high-pass along both.
    """
    synthesis = scaling_filter()
    low = synthesis[::-1]
    # The sign matters: a window's min-max scaling tells a valley from a peak.
    high = synthesis * np.where(np.arange(_TAPS) % 2, 1.0, -1.0)
    bands = [
        [_halve(_halve(image, down).T, across).T for across, down in row]
        for row in (((low, low), (low, high)), ((high, low), (high, high)))
    ]
    return np.block(bands)
