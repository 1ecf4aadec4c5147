"""Edge strengths, shared by Qabf and Nabf."""

import jax
import jax.numpy as jnp


def sobel(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sobel derivatives with the integer kernels, [1, 2, 1] across [-1, 0, 1].

    Args:
      x: floating [H + 2, W + 2], an image with a border of one pixel.

    Returns:
      Right minus left and lower minus upper, [H, W] each.
    """
    right = x[:, 2:] - x[:, :-2]
    down = x[2:] - x[:-2]
    return (
        right[:-2] + 2 * right[1:-1] + right[2:],
        down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:],
    )


def relative_strength(source: jax.Array, fused: jax.Array) -> jax.Array:
    """The weaker of two edge strengths over the stronger one; 0 where both are 0."""
    stronger = jnp.maximum(source, fused)
    return jnp.minimum(source, fused) / jnp.where(stronger == 0, 1, stronger)
