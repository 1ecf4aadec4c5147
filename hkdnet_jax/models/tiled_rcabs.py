"""A stack of RCABs whose features stay in tiles, the fast form on a CPU.

See `ops.tiles`; `blocks.RCAB` is the plain form.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from hkdnet_jax.models.remat import checkpointed, conv_output
from hkdnet_jax.ops import tiles
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.runtime import sharding

Params = Mapping[str, Any]
# By the fewest channels, the most bytes that features may have: with fewer channels the
# products save less, and what does not stay in the caches costs more.  Measured; see
# docs/performance.md.
_MOST_BYTES = {32: 2 * 2**20, 64: 16 * 2**20}


def pays(x: jax.Array, dtype: jnp.dtype, extent: Extent | None) -> bool:
    """Whether a CPU is faster with features [N, H, W, C] in tiles.

    In bfloat16 the transforms would lose digits.  Images that do not fill their arrays,
    and images whose rows several devices share, take the plain form.  Where devices
    share the batch, what each of them holds counts.
    """
    if x.dtype != jnp.float32 or jnp.dtype(dtype) != jnp.float32:
        return False
    if extent is not None or sharding.rows_are_split():
        return False
    limits = [most for least, most in _MOST_BYTES.items() if x.shape[-1] >= least]
    size = 4 * math.prod(x.shape) // sharding.sharing(x.shape[0])
    return size <= max(limits, default=0)


def apply(
    params: Params,
    x: jax.Array,
    gate: Callable[[Params, jax.Array], jax.Array],
    remat: str = "none",
) -> jax.Array:
    """Applies RCABs one after the other, each device those of its own images.

    Args:
      params: those of `blocks.RCAB`, each with a leading axis over the RCABs.
      x: float32 [N, H, W, C].
      gate: maps the parameters of a gate and means [N, C] to the weights [N, C].
      remat: see `models.remat`.

    Returns:
      float32 [N, H, W, C].
    """
    stack = partial(_stack, gate=gate, remat=remat)
    return sharding.over_images(stack, x, params)


def _stack(
    x: jax.Array,
    params: Params,
    gate: Callable[[Params, jax.Array], jax.Array],
    remat: str,
) -> jax.Array:
    height, width = x.shape[1:3]
    inside = tiles.inside(height, width)

    def conv(params: Params, x: jax.Array) -> jax.Array:
        y = tiles.conv(x, params["kernel"])
        return conv_output(y + params["bias"][None, None, None, None, None, :])

    def clear(x: jax.Array) -> jax.Array:
        return x if inside is None else x * inside

    def rcab(x: jax.Array, params: Params) -> tuple[jax.Array, None]:
        y = clear(nn.relu(conv(params["conv1"], x)))
        y = clear(conv(params["conv2"], y))
        means = jnp.sum(y, axis=(0, 1, 3, 4)) / (height * width)
        weights = gate(params["gate"], means)
        return x + y * weights[None, None, :, None, None, :], None

    body = checkpointed(rcab, remat)
    return tiles.from_tiles(lax.scan(body, tiles.to_tiles(x), params)[0], height, width)
