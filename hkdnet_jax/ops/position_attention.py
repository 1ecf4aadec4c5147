"""Self-attention over all H * W positions, exact, in memory linear in H * W.

The queries are streamed in blocks.  A block holds its rows of the N x N affinity
whole, so its softmax needs no online rescaling, and the backward pass computes the
block again instead of keeping it.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of float32 affinity that one block of queries may hold over the whole batch.
# Large enough that the two matrix products of a block are efficient.
BLOCK_BYTES = 64 * 2**20


def _block_length(batch: int, positions: int) -> int:
    """Queries a block, so that their float32 affinities fill BLOCK_BYTES."""
    return max(1, min(positions, BLOCK_BYTES // (4 * batch * positions)))


def _attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Row attention of some queries [N, q, D] over all keys [N, p, D].

    Returns the averages of the values [N, p, C], float32 [N, q, C], and the log of
    each row's normaliser, float32 [N, q].
    """
    logits = jnp.einsum(
        "nqd,npd->nqp", queries, keys, preferred_element_type=jnp.float32
    )
    peak = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mean = jnp.einsum(
        "nqp,npc->nqc",
        weights.astype(values.dtype),
        values,
        preferred_element_type=jnp.float32,
    )
    return mean / total, (peak + jnp.log(total))[..., 0]


def _attend_blocked(
    queries: jax.Array, keys: jax.Array, values: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
    """`_attend` of all queries [N, p, D], `block` of them at a time."""
    n, positions, depth = queries.shape
    blocks = -(-positions // block)
    padded = jnp.pad(queries, ((0, 0), (0, blocks * block - positions), (0, 0)))
    padded = padded.reshape(n, blocks, block, depth).swapaxes(0, 1)
    attend = jax.checkpoint(lambda some: _attend(some, keys, values))
    mean, log_total = lax.map(attend, padded)
    mean = mean.swapaxes(0, 1).reshape(n, blocks * block, values.shape[-1])
    log_total = log_total.swapaxes(0, 1).reshape(n, blocks * block)
    return mean[:, :positions], log_total[:, :positions]


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    softmax: str = "row",
    block: int | None = None,
) -> jax.Array:
    """Averages of the values of all positions, weighted by unscaled `query . key`.

    `row`: each position's weights over all positions sum to 1.  `joint`: one softmax
    over all pairs of positions.  A joint weight is the row weight times the row's
    share of the whole, so both come from the same blocks.

    Args:
      query: [N, H, W, D].
      key: as query.
      value: [N, H, W, C].
      softmax: `row` or `joint`.
      block: queries a block; by default as many as fill BLOCK_BYTES.

    Returns:
      [N, H, W, C] of value's dtype; softmax statistics are float32.

    Raises:
      ValueError: another `softmax`.
    """
    if softmax not in ("row", "joint"):
        raise ValueError(f"softmax must be row or joint, got {softmax!r}")
    n, h, w, _ = value.shape
    queries, keys, values = (x.reshape(n, h * w, -1) for x in (query, key, value))
    block = block or _block_length(n, h * w)
    if block >= h * w:
        mean, log_total = _attend(queries, keys, values)
    else:
        mean, log_total = _attend_blocked(queries, keys, values, block)
    if softmax == "joint":
        mean = mean * jax.nn.softmax(log_total, axis=-1)[..., None]
    return mean.reshape(value.shape).astype(value.dtype)


def position_attention(
    x: jax.Array, softmax: str = "row", block: int | None = None
) -> jax.Array:
    """Attention with the Gram matrix of x over its positions (Eq. 10, 11; DANet).

    Args:
      x: [N, H, W, C], queries, keys and values at once.
      softmax: `row`, or `joint` for the literal Eq. 10; see `attention`.
      block: see `attention`.

    Returns:
      [N, H, W, C] of x's dtype; softmax statistics are float32.

    Raises:
      ValueError: another `softmax`.
    """
    return attention(x, x, x, softmax, block)
