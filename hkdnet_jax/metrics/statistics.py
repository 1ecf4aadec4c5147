"""Whole-image correlation, shared by SCD and CC."""

import numpy as np

from hkdnet_jax.metrics.types import Image


def correlation(x: Image, y: Image) -> float:
    """Computes Pearson's correlation over all pixels of two float64 [H, W] arrays.

    Returns:
      Scalar in [-1, 1]; NaN if either is constant.
    """
    # A constant is recognised by its range: the mean is rounded, and would leave a flat
    # image a tiny variance and so a correlation made of rounding errors.
    if np.max(x) == np.min(x) or np.max(y) == np.min(y):
        return float("nan")
    x, y = x - np.mean(x), y - np.mean(y)
    return float(np.sum(x * y) / np.sqrt(np.sum(x**2) * np.sum(y**2)))
