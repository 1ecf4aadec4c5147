"""Checks that all losses make of their input."""

import jax
import jax.numpy as jnp


def as_images(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as float32, checked to be [N, H, W, 1] of one shape."""
    a, b = as_float32(name, a, b)
    if a.ndim != 4 or a.shape[-1] != 1:
        raise ValueError(f"{name} needs images [N, H, W, 1], got {a.shape}")
    return a, b


def as_float32(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as float32, checked to be floating point and of one shape."""
    if a.shape != b.shape:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} differ")
    for x in (a, b):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} needs floating-point input, got {x.dtype}")
    return jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
