"""Self-attention over all positions of an image, exact, in memory linear in H * W.

The function has four implementations: `materialized` holds the full N x N affinity (the
tests' reference); `blocked` streams the queries and runs everywhere; `cudnn` and
`flash` are the fused kernels for a GPU and a TPU.

Where queries, keys and values are one array, the affinity is symmetric.  This is not
exploited: it would save at most half of one of the two matrix products, and a block
would then be needed by rows of other blocks, which are not in memory.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from hkdnet_jax.ops import portable
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.runtime import precision as precisions
from hkdnet_jax.runtime.precision import FULL
from hkdnet_jax.runtime.sharding import over_positions

IMPLEMENTATIONS = ("auto", "materialized", "blocked", "cudnn", "flash")
KERNELS = ("cudnn", "flash")  # these return no normaliser, hence no joint softmax
SOFTMAX = ("row", "joint")

# Bytes of float32 affinity that one block of queries may hold over the entire batch.
# It is large enough that the two matrix products of a block are efficient, and small
# enough for the caches of a CPU.
BLOCK_BYTES = 16 * 2**20
# An accelerator has no such caches, and needs more work at once.
ACCELERATOR_BLOCK_BYTES = 2**30
# Largest side of a TPU kernel's tiles; its own default, 128, leaves the MXU idle.
_TPU_BLOCK = 512
_TPU_LANES = 128
_CUDNN_LARGEST_DEPTH = 128
_CUDNN_LEAST_CAPABILITY = 8.0  # compute capability of an NVIDIA GPU: Ampere


# The next four functions take queries [N, q, D], keys [N, p, D] and values [N, p, C]
# and return the averages of the values, float32 [N, q, C]; the first two also return
# the log of each row's normaliser, float32 [N, q].  `precision` is that of float32
# products, which cuDNN does not have.  `valid`, bool [N, p], leaves keys out; cuDNN
# would hold it as N x q x p.


def _materialized(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array | None = None,
    *,
    precision: str,
) -> tuple[jax.Array, jax.Array]:
    product = partial(
        jnp.einsum, precision=precision, preferred_element_type=jnp.float32
    )
    logits = product("nqd,npd->nqp", queries, keys)
    if valid is not None:
        logits = jnp.where(valid[:, None], logits, -jnp.inf)
    peak = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mean = product("nqp,npc->nqc", weights.astype(values.dtype), values)
    return mean / total, jnp.squeeze(peak + jnp.log(total), -1)


def _blocked(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array | None = None,
    *,
    precision: str,
    block: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Processes `block` queries at a time, by default as the platform's bytes allow.

    A block holds complete rows of the affinity, so its softmax needs no online
    rescaling, and the backward pass recomputes the block instead of keeping it.
    """
    n, positions, depth = queries.shape
    if block is None:
        on_cpu = jax.default_backend() == "cpu"
        block_bytes = BLOCK_BYTES if on_cpu else ACCELERATOR_BLOCK_BYTES
        block = max(1, block_bytes // (4 * n * keys.shape[1]))
    others = keys, values, valid
    if block >= positions:
        return _materialized(queries, *others, precision=precision)
    block = _even(positions, block)
    blocks = -(-positions // block)
    padded = jnp.pad(queries, ((0, 0), (0, blocks * block - positions), (0, 0)))
    padded = _turned(padded.reshape(n, blocks, block, depth))
    attend = jax.checkpoint(
        lambda rows: _materialized(rows, *others, precision=precision)
    )
    mean, log_total = lax.map(attend, padded)
    mean = _turned(mean).reshape(n, blocks * block, values.shape[-1])
    log_total = _turned(log_total).reshape(n, blocks * block)
    return mean[:, :positions], log_total[:, :positions]


def _turned(x: jax.Array) -> jax.Array:
    """Exchanges the first two axes; of a single image without a copy."""
    first, second, *others = x.shape
    if 1 in (first, second):
        return x.reshape(second, first, *others)
    return x.swapaxes(0, 1)


def _even(positions: int, block: int) -> int:
    """A block of at most this size, and at least half of it if that can be helped.

    If it divides the positions, the queries need not be copied to be padded, which
    would be most of the memory of a large image.
    """
    whole = (size for size in range(block, block // 2, -1) if not positions % size)
    return next(whole, block)


def _by_rows(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    softmax: str,
    precision: str,
) -> jax.Array:
    """Processes one row of the image at a time, for export.

    Runtimes have one fast kernel for a softmax and another for a product of matrices,
    and make slow work of the steps that `_materialized` takes.  More than a row at a
    time, or less, is no faster there.

    Args:
      queries: [N, H, W, D].
      keys: [N, p, D].
      values: [N, p, C].
      softmax: `row` or `joint`.
      precision: precision of the products.

    Returns:
      The averages, [N, H, W, C].
    """
    product = partial(jnp.matmul, precision=precision)
    columns = jnp.swapaxes(keys, 1, 2)

    def attend(row: jax.Array) -> tuple[jax.Array, ...]:
        logits = product(row, columns)
        mean = product(jax.nn.softmax(logits, axis=-1), values)
        if softmax == "row":
            return (mean,)
        return mean, jax.nn.logsumexp(logits, axis=-1)

    rows = lax.map(attend, jnp.moveaxis(queries, 1, 0))
    mean, *log_totals = (jnp.moveaxis(x, 0, 1) for x in rows)
    for log_total in log_totals:
        mean = mean * portable.softmax(log_total, (1, 2))[..., None]
    return mean


def _cudnn(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    queries, keys = (_deepen(x, values.shape[-1]) for x in (queries, keys))
    heads = (x[:, :, None, :] for x in (queries, keys, values))
    mean = jax.nn.dot_product_attention(*heads, scale=1.0, implementation="cudnn")
    return mean[:, :, 0].astype(jnp.float32)


def _flash(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array | None = None,
    *,
    precision: str,
) -> jax.Array:
    # Only here: it takes a tenth of a second to load, which CPUs need not wait for.
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu

    positions = queries.shape[1]
    queries, keys = (_deepen(x, values.shape[-1]) for x in (queries, keys))
    segments = None
    q_block, k_block = (_tpu_block(x.shape[1]) for x in (queries, keys))
    if positions % q_block or keys.shape[1] % k_block or valid is not None:
        ones = [jnp.ones(x.shape[:2], jnp.int32) for x in (queries, keys)]
        if valid is not None:
            ones[1] = valid.astype(jnp.int32)
        q_ones, k_ones = map(_pad_positions, ones, (q_block, k_block))
        segments = tpu.SegmentIds(q_ones, k_ones)  # the padding is another segment: 0
    queries = _pad_positions(queries, q_block)
    keys, values = (_pad_positions(x, k_block) for x in (keys, values))
    blocks = tpu.BlockSizes(
        block_q=q_block,
        block_k_major=k_block,
        block_k=k_block,
        block_b=1,
        block_q_major_dkv=q_block,
        block_k_major_dkv=k_block,
        block_k_dkv=k_block,
        block_q_dkv=q_block,
        block_k_major_dq=k_block,
        block_k_dq=k_block,
        block_q_dq=q_block,
    )

    # The segments are an argument, because a function with a custom gradient must not
    # close over an array.
    def attend(q, k, v, segments):
        return tpu.flash_attention(
            q, k, v, segment_ids=segments, sm_scale=1.0, block_sizes=blocks
        )

    # The kernel's products have two precisions, and with bfloat16 there is no choice.
    exact = values.dtype == jnp.float32 and precision != "default"
    attend = precisions.at(FULL if exact else "default", attend)
    mean = attend(*(x[:, None] for x in (queries, keys, values)), segments)
    return mean[:, 0, :positions].astype(jnp.float32)


def _deepen(x: jax.Array, depth: int) -> jax.Array:
    """Pads the last axis with zeros, because the kernels need one depth for all."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, depth - x.shape[-1])))


def _tpu_block(positions: int) -> int:
    return min(_TPU_BLOCK, -(-positions // _TPU_LANES) * _TPU_LANES)


def _pad_positions(x: jax.Array, block: int) -> jax.Array:
    """Pads [N, p, ...] with zeros to a multiple of `block` positions."""
    ends = [(0, 0)] * x.ndim
    ends[1] = (0, -x.shape[1] % block)
    return jnp.pad(x, ends)


def _fastest(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    valid: jax.Array | None = None,
    *,
    precision: str,
    block: int | None,
) -> jax.Array:
    """Runs the kernel of the platform that is compiled for, or else `_blocked`."""
    depth = values.shape[-1]
    fits = values.dtype == jnp.bfloat16 and depth % 8 == 0
    default = _row(partial(_blocked, precision=precision, block=block))
    kernels = {} if _only_cpus() else {"tpu": partial(_flash, precision=precision)}
    # cuDNN has no float32, and jax inspects the actual GPU when it traces the kernel.
    fits = fits and depth <= _CUDNN_LARGEST_DEPTH and valid is None
    if fits and has_kernel("cudnn"):
        kernels["cuda"] = _cudnn
    arrays = [queries, keys, values, *([] if valid is None else [valid])]
    if not kernels:
        return default(*arrays)
    return lax.platform_dependent(*arrays, **kernels, default=default)


def _only_cpus() -> bool:
    """Returns whether the mesh that is traced for is known to consist of CPUs.

    Every kernel that a platform might use is traced, and the TPU's takes a third of the
    time that the trace of a small network takes.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "cpu"


def has_kernel(kernel: str) -> bool:
    """Returns whether the first device can run a kernel, one of KERNELS."""
    device = jax.local_devices()[0]
    if kernel == "flash":
        return device.platform == "tpu"
    # The platform "gpu" includes AMD's, which have no cuDNN.
    nvidia = device.platform == "gpu" and "cuda" in device.client.platform_version
    return nvidia and float(device.compute_capability) >= _CUDNN_LEAST_CAPABILITY


def _row(attend: Callable[..., tuple[jax.Array, jax.Array]]) -> Callable:
    """Wraps `attend` so that it returns only the averages."""
    return lambda *args: attend(*args)[0]


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    softmax: str = "row",
    implementation: str = "auto",
    block: int | None = None,
    precision: str = FULL,
    valid: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Averages the values of all positions by a softmax of the unscaled `query . key`.

    `row`: each query's weights over all positions sum to 1.  `joint`: one softmax over
    all pairs of query and position.  A joint weight is the row weight times the row's
    share of the total, so both come from the same blocks.

    Args:
      query: [N, H, W, D].
      key: [N, K, L, D].
      value: [N, K, L, C], C at least D.
      softmax: `row` or `joint`.
      implementation: `materialized`, `blocked`, `cudnn` (an NVIDIA GPU of compute
        capability 8.0 or more, bfloat16, C at most 128 and divisible by 8), `flash` (a
        TPU), the last two only for `row`; `auto` is the platform's kernel where it has
        one that fits, else `blocked`.
      block: number of queries in a block of `blocked`; by default as many as fill
        BLOCK_BYTES on a CPU, and ACCELERATOR_BLOCK_BYTES elsewhere.
      precision: precision of float32 products; see `runtime.precision`.
      valid: bool [N, H, W] and [N, K, L], which queries and keys count, at least one
        of each image; all if None.  Results of other queries have no meaning.  `cudnn`
        takes none of it.

    Returns:
      [N, H, W, C] of value's dtype; softmax statistics are float32.

    Raises:
      ValueError: `softmax` or `implementation` is none of these, or a kernel is asked
        for `joint`.
    """
    if softmax not in SOFTMAX:
        raise ValueError(f"softmax must be row or joint, got {softmax!r}")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}"
        )
    if valid is not None and implementation == "cudnn":
        raise ValueError("cudnn takes no valid positions: use blocked")
    if softmax == "joint" and implementation in KERNELS:
        raise ValueError(f"{implementation} has no joint softmax: use blocked")
    n, h, w, _ = query.shape
    if portable.active():
        others = (x.reshape(n, -1, x.shape[-1]) for x in (key, value))
        return _by_rows(query, *others, softmax, precision).astype(value.dtype)
    arrays = [x.reshape(n, -1, x.shape[-1]) for x in (query, key, value)]
    if valid is not None:
        valid_queries, valid_keys = (x.reshape(n, -1) for x in valid)
        arrays.append(valid_keys)

    materialized = partial(_materialized, precision=precision)
    blocked = partial(_blocked, precision=precision, block=block)
    if softmax == "joint":
        attend = materialized if implementation == "materialized" else blocked
        mean, log_total = over_positions(attend, *arrays)
        if valid is not None:
            log_total = jnp.where(valid_queries, log_total, -jnp.inf)
        mean = mean * jax.nn.softmax(log_total, axis=-1)[..., None]
    else:
        attend = {
            "auto": partial(_fastest, precision=precision, block=block),
            "materialized": _row(materialized),
            "blocked": _row(blocked),
            "cudnn": _cudnn,
            "flash": partial(_flash, precision=precision),
        }[implementation]
        mean = over_positions(attend, *arrays)
    return mean.reshape(n, h, w, value.shape[-1]).astype(value.dtype)


def position_attention(
    x: jax.Array,
    softmax: str = "row",
    implementation: str = "auto",
    pool: int = 1,
    most_keys: int = 0,
    block: int | None = None,
    precision: str = FULL,
    extent: Extent | None = None,
) -> jax.Array:
    """Applies the Gram matrix of x over its positions (Eq. 10, 11; DANet).

    Args:
      x: [N, H, W, C], which serves as queries, keys and values.
      softmax: `row`, or `joint` for the literal Eq. 10; see `attention`.
      implementation: see `attention`.
      pool: side in pixels of the squares over which keys and values are averaged
        (smaller at the lower and right edges); 1 is the paper's attention.
      most_keys: where more squares than this cover the array, their side doubles until
        no more do; 0 for no limit, which symbolic sizes have always.
      block: see `attention`.
      precision: see `attention`.
      extent: of the images, beyond which x is 0; see `ops.extent`.

    Returns:
      [N, H, W, C] of x's dtype; softmax statistics are float32.

    Raises:
      ValueError: see `attention`.
    """
    pool = _side(x.shape[1:3], pool, most_keys)
    keys = x if pool == 1 else _pooled(x, pool, extent)
    valid = None
    if extent is not None:
        counts = _counts(x.shape, pool, extent)
        valid = extent.inside(x), counts > 0
    return attention(x, keys, keys, softmax, implementation, block, precision, valid)


def _side(shape: Sequence[Any], pool: int, most_keys: int) -> int:
    """The side of the squares over which keys and values are averaged, in pixels.

    The sides of `shape`, height and width, are whole numbers or symbols.
    """
    if not most_keys or any(map(jax.export.is_symbolic_dim, shape)):
        return pool
    while math.prod(-(-side // pool) for side in shape) > most_keys:
        pool *= 2
    return pool


def _pooled(x: jax.Array, pool: int, extent: Extent | None) -> jax.Array:
    """Averages the squares of [N, H, W, C], which is 0 beyond the extent."""
    if portable.active():
        return portable.average_squares(x.astype(jnp.float32), pool).astype(x.dtype)
    window = (1, pool, pool, 1)
    padding = [(0, 0), *((0, -side % pool) for side in x.shape[1:3]), (0, 0)]
    sums = lax.reduce_window(
        x.astype(jnp.float32), 0.0, lax.add, window, window, padding
    )
    counts = _counts(x.shape, pool, extent)
    return (sums / jnp.maximum(counts, 1)).astype(x.dtype)


def _counts(shape: tuple[int, ...], pool: int, extent: Extent | None) -> jax.Array:
    """How many pixels of the image each square has, float32 [N or 1, K, L, 1].

    They are stated rather than summed up, because the compiler would do that for large
    images in seconds.
    """
    sides = shape[1:3] if extent is None else extent
    rows, columns = (
        jnp.clip(
            jnp.reshape(length, (-1, 1)) - jnp.arange(0, side, pool)[None], 0, pool
        )
        for side, length in zip(shape[1:3], sides, strict=True)
    )
    return (rows[:, :, None, None] * columns[:, None, :, None]).astype(jnp.float32)
