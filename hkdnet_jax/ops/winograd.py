"""Weight gradient of a 3x3 convolution by minimal filtering, for CPUs.

Winograd, "Arithmetic Complexity of Computations", 1980; Lavin & Gray, "Fast algorithms
for convolutional neural networks", CVPR 2016.  On 6x6 input and 4x4 output tiles the
nine taps take 36 products instead of 144, and all of them are plain matrix products,
which use every core.

The polynomials are evaluated at 0, +-1/sqrt(2), +-sqrt(2) and infinity.  The usual
points, 0, +-1, +-2 and infinity, cost the same but are four times less accurate.
"""

from collections.abc import Sequence
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hkdnet_jax.ops.barriers import separate
from hkdnet_jax.runtime.precision import FULL

TILE = 4  # outputs along each side
WINDOW = TILE + 2  # inputs along each side
_POINTS = (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))  # and infinity
# Bytes of transformed tiles that are processed at once.  If there are more than the
# caches hold and the allocator keeps, the transform costs more than it saves; if there
# are too few, the loop over the chunks does.
_CACHED_BYTES = 20 * 2**20


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the matrices of outputs, taps and inputs, each with WINDOW rows.

    Together they state every product of an output and a tap once: the sum over j of
    outputs[j, i] * taps[j, k] * inputs[j, l] is 1 for l = i + k, else 0.
    """
    powers = np.power.outer(np.array(_POINTS), np.arange(TILE))
    outputs, taps = powers, powers[:, :3]
    outputs = np.vstack([outputs, np.eye(TILE)[-1]])
    taps = np.vstack([taps, np.eye(3)[-1]])
    products = np.einsum("ji,jk->ikj", outputs, taps).reshape(-1, WINDOW)
    wanted = np.equal.outer(
        np.add.outer(np.arange(TILE), np.arange(3)).ravel(), np.arange(WINDOW)
    )
    inputs = np.linalg.lstsq(products, wanted.astype(float), rcond=None)[0]
    return outputs, taps, inputs


# Matrices [6, 4], [6, 3] and [6, 6]; see `_transforms`.
OUTPUTS, TAPS, INPUTS = _transforms()


def weight_gradient(x: jax.Array, grad: jax.Array, precision: str = FULL) -> jax.Array:
    """Computes the kernel gradient of a convolution with zero padding of one pixel.

    The error is that of the direct sum, about 2e-6 of the largest entry.

    Args:
      x: float32 [N, H, W, I], the convolution's input.
      grad: float32 [N, H, W, O], the gradient of its output.
      precision: precision of the products; see `runtime.precision`.

    Returns:
      float32 [3, 3, I, O].
    """
    n, h, w, i = x.shape
    o = grad.shape[-1]
    groups, images, bands, rows = _chunks(n, h, w, i + o)
    more, bottom, right = groups * images - n, bands * rows - h, -w % TILE
    x = jnp.pad(x, ((0, more), (1, 1 + bottom), (1, 1 + right), (0, 0)))
    grad = jnp.pad(grad, ((0, more), (0, bottom), (0, right), (0, 0)))
    if groups == bands == 1:
        return _chunk_gradient(x, grad, precision)

    def chunk(a: jax.Array, index: jax.Array, height: int) -> jax.Array:
        start = (index // bands * images, index % bands * rows, 0, 0)
        return lax.dynamic_slice(a, start, (images, height, *a.shape[2:]))

    def add(total: jax.Array, index: jax.Array):
        parts = chunk(x, index, rows + 2), chunk(grad, index, rows)
        return total + _chunk_gradient(*parts, precision), None

    zero = jnp.zeros((3, 3, i, o), x.dtype)
    return lax.scan(add, zero, jnp.arange(groups * bands))[0]


def _chunks(n: int, h: int, w: int, channels: int) -> tuple[int, int, int, int]:
    """Chooses equal chunks whose transformed tiles fit into _CACHED_BYTES.

    Returns:
      groups: number of groups of images; the last one may not be full.
      images: number of images per group and chunk; 1 if images are cut into bands.
      bands: number of bands per image.
      rows: output rows per band, a multiple of TILE.
    """
    tile_rows = -(-h // TILE)
    row_bytes = 4 * WINDOW**2 * -(-w // TILE) * channels
    fitting = max(1, _CACHED_BYTES // row_bytes)  # rows of tiles that fit
    bands = -(-tile_rows // fitting)
    rows = -(-tile_rows // bands) * TILE
    groups = -(-n // max(1, fitting // tile_rows))
    return groups, -(-n // groups), bands, rows


def _chunk_gradient(x: jax.Array, grad: jax.Array, precision: str) -> jax.Array:
    """Computes `weight_gradient` of complete tiles; x has a border of one pixel."""
    number = grad[0, 0, 0, 0]
    inputs, outputs = (
        _transformed(matrix, a, number) for matrix, a in ((INPUTS, x), (OUTPUTS, grad))
    )
    dimensions = (((1,), (1,)), ((0,), (0,)))
    sums = lax.dot_general(inputs, outputs, dimensions, precision=precision)
    sums = combined(TAPS.T, sums.reshape(WINDOW, WINDOW, *sums.shape[1:]), axis=0)
    return combined(TAPS.T, sums.swapaxes(0, 1), axis=1)


def _transformed(matrix: np.ndarray, x: jax.Array, number: jax.Array) -> jax.Array:
    """Transforms the windows of an image, one every TILE pixels; rows first.

    Args:
      matrix: [6, side of a window].
      x: [N, H, W, C], of complete windows.
      number: see `separate`.

    Returns:
      [36, number of windows, C].
    """
    side = matrix.shape[1]
    rows, columns = ((length - side) // TILE * TILE + 1 for length in x.shape[1:3])

    def down(x: jax.Array) -> jax.Array:
        return combined(matrix, [x[:, i : i + rows : TILE] for i in range(side)], 0)

    # Or each of the six terms below would compute the sums above again.
    x = separate(number, down, x)
    windows = [x[:, :, :, j : j + columns : TILE] for j in range(side)]
    return combined(matrix, windows, axis=1).reshape(WINDOW**2, -1, x.shape[-1])


def combined(
    matrix: np.ndarray, arrays: Sequence[jax.Array] | jax.Array, axis: int
) -> jax.Array:
    """Returns, along a new axis, the sums of the arrays times a row of the matrix."""
    total = 0.0
    for column, array in zip(matrix.T.astype(np.float32), arrays, strict=True):
        shape = [1] * (array.ndim + 1)
        shape[axis] = -1
        total = total + column.reshape(shape) * jnp.expand_dims(array, axis)
    return total
