"""Whole-image correlation, shared by SCD and CC."""

import jax.numpy as jnp

from hkdnet_jax.metrics.types import Image, Scalar


def correlation(x: Image, y: Image) -> Scalar:
    """Computes Pearson's correlation over all pixels of two floating [H, W] arrays.

    Returns:
      Scalar in [-1, 1]; NaN if either is constant.
    """
    # A constant is recognised by its range: the mean is rounded, and would leave a flat
    # image a tiny variance and so a correlation made of rounding errors.
    constant = (jnp.max(x) == jnp.min(x)) | (jnp.max(y) == jnp.min(y))
    x, y = x - jnp.mean(x), y - jnp.mean(y)
    product = jnp.sum(x * y) / jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2))
    return jnp.where(constant, jnp.nan, product)
