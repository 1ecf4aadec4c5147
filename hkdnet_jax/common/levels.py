"""Levels of decoded pixels: luma, the range that becomes [0, 1], and the mapping.

Pure NumPy, for any integer or floating-point dtype.  A `Range` says which level becomes
0 and which becomes 1; levels outside are clipped.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

AUTO, FULL = "auto", "full"
# Shares of red, green and blue in the luma, those of MATLAB's rgb2gray (BT.601).
LUMA = (0.298936, 0.587043, 0.114021)
# The share of the levels that `robust_range` leaves out at either end, at least one
# pixel: a dead or a hot pixel must not decide the contrast of a picture.
_OUTLIERS = 0.001
_PIXELS_AT_ONCE = 2**20  # in the computation of luma
_MOST_SAMPLES = 2**20  # of one image; a regular grid of its pixels is taken beyond


class Range(NamedTuple):
    """The levels that become 0 and 1, `low` below `high`; equal if all is flat."""

    low: float
    high: float

    def __str__(self) -> str:
        """As a part of a sentence."""
        return f"{self.low:g} to {self.high:g}"


class Pooled(Range):
    """A range that was taken from many images: 8-bit ones keep their own."""


BYTES = Range(0, 255)
Spec = str | Range  # AUTO, FULL, or the range itself


def parse(text: str) -> Spec:
    """Reads `auto`, `full` or LOW:HIGH.

    Raises:
      ValueError: the text is none of them; the message is the end of a sentence.
    """
    if text in (AUTO, FULL):
        return text
    low, colon, high = text.partition(":")
    try:
        found = Range(float(low), float(high))
    except ValueError:
        colon = ""
    if not colon or not (np.isfinite(found).all() and found.low < found.high):
        raise ValueError(
            f"{text!r} is not a range: give {AUTO}, {FULL}, or two numbers LOW:HIGH "
            "of which the first is smaller, such as 7000:9000"
        )
    return found


def luma(pixels: np.ndarray) -> np.ndarray:
    """Computes the BT.601 luma of [H, W, 3] in the same dtype.

    The coefficients are those of MATLAB's rgb2gray, ``0.298936 R + 0.587043 G +
    0.114021 B``; integers are rounded exactly, halves up, and NaN stays NaN.

    Args:
      pixels: [H, W, 3] of any integer or floating-point dtype; [H, W] is returned
        unchanged.
    """
    if pixels.ndim == 2:
        return pixels
    # Published metric values rest on MATLAB's coefficients: the rounded ones of the
    # standard (0.299, 0.587, 0.114) change one pixel in two hundred by one level.
    # In strips of rows, because the sums take many times the memory of the image.
    rows = max(1, _PIXELS_AT_ONCE // pixels.shape[1])
    strips = (pixels[first : first + rows] for first in range(0, len(pixels), rows))
    return np.concatenate([_luma(strip) for strip in strips])


def _luma(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "f":
        levels = pixels.astype(np.float64) @ np.array(LUMA)
        return levels.astype(pixels.dtype)
    # No product overflows: levels of 32 bits times a million fit into 63 bits.
    red, green, blue = (pixels[..., i].astype(np.int64) for i in range(3))
    millionths = 298936 * red + 587043 * green + 114021 * blue
    return ((millionths + 500_000) // 1_000_000).astype(pixels.dtype)


def full_range(dtype: np.dtype, bits: int | None = None) -> Range:
    """The range that a sample can hold; [0, 1] for floating point.

    Args:
      dtype: of the samples.
      bits: how many of its bits are used, from 0 up for unsigned samples; None for all.
    """
    if dtype.kind == "f":
        return Range(0, 1)
    if dtype.kind == "b":
        return Range(0, 1)
    bits = dtype.itemsize * 8 if bits is None else bits
    if dtype.kind == "i":
        return Range(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Range(0, 2**bits - 1)


def sample(image: np.ndarray) -> np.ndarray:
    """Returns the finite levels of [H, W], or of a regular grid of a large image."""
    step = int(np.ceil(np.sqrt(max(1, image.size / _MOST_SAMPLES))))
    levels = image[::step, ::step].ravel()
    return levels[np.isfinite(levels)] if levels.dtype.kind == "f" else levels


def robust_range(samples: Iterable[np.ndarray]) -> Range | None:
    """The range of the levels from the 0.1 % to the 99.9 % quantile.

    Args:
      samples: what `sample` returned for one image or for several, taken together.

    Returns:
      The range, whose ends are equal if the levels are; None if there are none.
    """
    levels = np.concatenate([np.ravel(x) for x in samples] or [np.zeros(0)])
    if levels.size == 0:
        return None
    cut = min(max(1, int(_OUTLIERS * levels.size)), (levels.size - 1) // 2)
    ends = (cut, levels.size - 1 - cut)
    ordered = np.partition(levels, sorted(set(ends)))
    return Range(*(float(ordered[end]) for end in ends))


def pooled(images: Iterable[np.ndarray]) -> Spec:
    """The robust range of several images [H, W], of those that have more than 8 bits.

    Returns:
      A Pooled range; AUTO if there is none of them, or none that holds a level.
    """
    found = robust_range(sample(x) for x in images if x.dtype != np.uint8)
    return Pooled(*found) if found else AUTO


def extremes(image: np.ndarray) -> Range | None:
    """The smallest and largest finite level, or None if there is none."""
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    return Range(float(finite.min()), float(finite.max())) if finite.size else None


def resolve(spec: Spec, image: np.ndarray, full: Range) -> Range:
    """The range that a specification means for one image.

    Args:
      spec: AUTO keeps unsigned levels of 8 bits, and takes the robust range of others;
        a Pooled range keeps 8 bits as well; FULL is the range that the samples can
        hold; any other Range is itself.
      image: [H, W], as decoded.
      full: see `Picture.full`.
    """
    if isinstance(spec, Range) and not isinstance(spec, Pooled):
        return spec
    if spec == FULL or image.dtype == np.uint8:
        return full
    if isinstance(spec, Pooled):
        return spec
    return robust_range([sample(image)]) or full


def to_unit(image: np.ndarray, levels: Range) -> np.ndarray:
    """Maps levels to float32 in [0, 1]; those outside are clipped, NaN becomes 0.

    Where the range is flat, levels up to it become 0, and larger ones 1.

    Args:
      image: of any shape, and of any integer or floating-point dtype.
      levels: the levels that become 0 and 1.
    """
    # NumPy divides exactly; XLA multiplies by the rounded 1/255 or 1/65535, so that 8
    # and 16 bits of the same content would give pictures that differ at a few pixels.
    exact = np.float32 if image.dtype.itemsize <= 2 else np.float64
    low, high = exact(levels.low), exact(levels.high)
    if high > low:
        with np.errstate(over="ignore", invalid="ignore"):
            unit = (image.astype(exact) - low) / (high - low)
    else:
        unit = (image > low).astype(exact)
    unit = np.clip(unit, 0, 1).astype(np.float32)
    return np.nan_to_num(unit, copy=False, nan=0.0) if image.dtype.kind == "f" else unit
