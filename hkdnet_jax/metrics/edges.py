"""Edge strengths, shared by Qabf and Nabf."""

import jax
import jax.numpy as jnp


def relative_strength(source: jax.Array, fused: jax.Array) -> jax.Array:
    """Divides the weaker of two edge strengths by the stronger; 0 where both are 0."""
    stronger = jnp.maximum(source, fused)
    return jnp.minimum(source, fused) / jnp.where(stronger == 0, 1, stronger)
