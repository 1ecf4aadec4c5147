"""Checks that all losses make of their input."""

import jax
import jax.numpy as jnp


def as_images(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`as_floats` of both, checked to be [N, H, W, 1]."""
    a, b = as_floats(name, a, b)
    if a.ndim != 4 or a.shape[-1] != 1:
        raise ValueError(f"{name} needs images [N, H, W, 1], got {a.shape}")
    return a, b


def as_floats(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as float32, or as float64 if one is, checked to be of one shape.

    Raises:
      ValueError: the shapes differ, or one is not floating-point.
    """
    if a.shape != b.shape:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} differ")
    for x in (a, b):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} needs floating-point input, got {x.dtype}")
    dtype = jnp.result_type(a, b, jnp.float32)
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype)
