"""Large images of which a part of a network is computed in strips of rows.

Where features have many channels, those of a whole image would take most of the memory.
The strips overlap by what the part reaches, so the result is the same up to rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.ops.barriers import zeros

# Bytes of the largest features in one strip.
STRIP_BYTES = 64 * 2**20
# Repeats a function of a module, which has the same parameters each time.
repeated = partial(nn.scan, variable_broadcast="params", split_rngs={"params": False})


def is_large(x: jax.Array) -> bool:
    """Whether features of the small image are larger than those of a strip may be."""
    return x.dtype.itemsize * x.size > STRIP_BYTES


def number_of(shape: tuple[int, int, int, int], per_pixel: float, halo: int = 1) -> int:
    """The number of strips in which features [N, H, W, C] are processed.

    Args:
      shape: of the features.
      per_pixel: numbers that one pixel and channel of them becomes.
      halo: how many rows a row depends on above it, and below it.
    """
    number, height, width, channels = shape
    row = 4 * channels * per_pixel * width * number
    return -(-height // max(int(STRIP_BYTES // row), 8 * halo))


def by_strips(
    module: nn.Module,
    function: Callable[[nn.Module, jax.Array, jax.Array], Any],
    x: jax.Array,
    made: Any,
    strips: int,
    halo: int = 1,
    scale: int = 1,
) -> Any:
    """Processes features in strips of rows, one after the other.

    A strip reaches beyond its rows, but never beyond x: at an edge of x the padding of
    its convolutions is right, and at its other edges what the padding spoils is cut
    off.

    Args:
      module: whose parameters the function uses.
      function: takes the module, a strip [N, rows, W, C] and the number of its first
        row in x, and returns a pytree of arrays [N, scale * rows, ...].
      x: features [N, H, W, C].
      made: a pytree of the `jax.ShapeDtypeStruct`s [N, scale * H, ...] of the result.
      strips: their number, at least 2; see `number_of`.
      halo: see `number_of`.
      scale: rows of the result for each row of x.
    """
    height = x.shape[1]
    rows = -(-height // strips)
    length = rows + 2 * halo

    def process(part: nn.Module, whole: Any, first: jax.Array) -> tuple[Any, None]:
        start = jnp.clip(first - halo, 0, height - length)
        strip = jax.lax.dynamic_slice_in_dim(x, start, length, axis=1)

        def put(all_rows: jax.Array, some: jax.Array) -> jax.Array:
            own = jax.lax.dynamic_slice_in_dim(
                some, scale * (first - start), scale * rows, axis=1
            )
            return jax.lax.dynamic_update_slice_in_dim(
                all_rows, own, scale * first, axis=1
            )

        return jax.tree.map(put, whole, function(part, strip, start)), None

    # The last strip begins earlier than it would have to, so that all are equal.
    firsts = jnp.minimum(jnp.arange(0, height, rows), height - rows)
    number = x[0, 0, 0, 0]
    empty = jax.tree.map(lambda one: zeros(one.shape, one.dtype, number), made)
    return repeated(process)(module, empty, firsts)[0]
