"""Orders that XLA's CPU compiler keeps, which drops optimization barriers early.

It fuses nothing across a condition, and computes nothing of it before what decides it.
The conditions here are always true, which the compiler does not know.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def separate(
    number: jax.Array, function: Callable[..., jax.Array], *args: Any
) -> jax.Array:
    """Calls a function so that its result is computed once, and not for each reader.

    Otherwise the compiler fuses an elementwise function into every operation that
    reads its result, and computes it again in each of them.

    Args:
      number: any scalar that the compiler does not know.
      function: takes and returns arrays.
      *args: its arguments.
    """
    shape = jax.eval_shape(function, *args)
    never = jnp.zeros(shape.shape, shape.dtype)
    return lax.cond(_always(number), function, lambda *_: never, *args)


def after(x: jax.Array, number: jax.Array) -> jax.Array:
    """Returns x, once the scalar has been computed.

    Otherwise the compiler interleaves computations that do not depend on each other,
    and holds the intermediates of both.  Elsewhere than on a CPU it returns x.
    """
    return lax.platform_dependent(
        x, number, cpu=lambda x, n: separate(n, lambda x: x, x), default=lambda x, n: x
    )


def zeros(shape: tuple[int, ...], dtype: jnp.dtype, number: jax.Array) -> jax.Array:
    """Returns zeros that are made once the scalar has been computed.

    Otherwise the compiler makes constant arrays at the start, and holds them until they
    are used.
    """
    zero = jnp.where(_always(number), 0.0, 1.0).astype(dtype)
    return jnp.broadcast_to(zero, shape)


def _always(number: jax.Array) -> jax.Array:
    """True: no 32-bit number has 64 bits."""
    bits = lax.bitcast_convert_type(number.astype(jnp.float32), jnp.uint32)
    return lax.population_count(bits) < 64
