"""Input checks that all losses share."""

import jax
import jax.numpy as jnp


def as_images(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `as_floats` of both, after a check that they are [N, H, W, 1].

    Raises:
      ValueError: the shapes are others or differ, or one is not floating-point.
    """
    a, b = as_floats(name, a, b)
    if a.ndim != 4 or a.shape[-1] != 1:
        raise ValueError(f"{name} needs images [N, H, W, 1], got {a.shape}")
    return a, b


def as_floats(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Converts both to float32, or to float64 if one is, and checks their shapes.

    Args:
      name: the caller, for the error message.
      a: floating, of any shape.
      b: floating, of the shape of a.

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
