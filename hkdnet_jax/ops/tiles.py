"""3x3 convolutions of features that stay in 4x4 tiles, by minimal filtering, for CPUs.

`ops.winograd` explains the method.  Its transforms read and write pixels that are four
apart, which costs more than the products save, if every convolution gathers them anew.
Here the place in a tile comes first: entry [i, j, n, r, s, c] is that of the pixel
(4 r + i, 4 s + j) of image n.  A stack of convolutions is transformed to this layout
once, and each transform is a sum of whole arrays, a few of them moved by one tile.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hkdnet_jax.ops.winograd import INPUTS, OUTPUTS, TAPS, TILE, WINDOW
from hkdnet_jax.runtime.precision import FULL

ROWS, COLUMNS = 0, 1  # axes of the place in a tile
_MOVES = {ROWS: 3, COLUMNS: 4}  # the axes along which their tiles lie


def to_tiles(x: jax.Array) -> jax.Array:
    """Cuts images [N, H, W, C] into tiles [4, 4, N, ceil(H / 4), ceil(W / 4), C].

    Pixels of the last tiles that lie outside the images are 0.
    """
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % TILE), (0, -w % TILE), (0, 0)))
    shape = n, x.shape[1] // TILE, TILE, x.shape[2] // TILE, TILE, c
    return x.reshape(shape).transpose(2, 4, 0, 1, 3, 5)


def from_tiles(tiles: jax.Array, height: int, width: int) -> jax.Array:
    """Puts tiles together to images [N, height, width, C]."""
    _, _, n, rows, columns, c = tiles.shape
    x = tiles.transpose(2, 3, 0, 4, 1, 5)
    return x.reshape(n, TILE * rows, TILE * columns, c)[:, :height, :width]


def transformed_bytes(x: jax.Array) -> int:
    """The size of features [N, H, W, C] at the 36 places of their windows."""
    n, h, w, c = x.shape
    number = n * -(-h // TILE) * -(-w // TILE)
    return x.dtype.itemsize * WINDOW**2 * number * c


def inside(height: int, width: int) -> np.ndarray | None:
    """Marks the pixels of tiles that lie in images of this size by 1, others by 0.

    Returns:
      float32 [4, 4, 1, R, S, 1], or None if there are no others.
    """
    if height % TILE == width % TILE == 0:
        return None
    rows, columns = (
        (np.arange(-(-size // TILE) * TILE) < size).reshape(-1, TILE).T
        for size in (height, width)
    )
    marks = rows[:, None, None, :, None, None] & columns[None, :, None, None, :, None]
    return marks.astype(np.float32)


@jax.custom_vjp
def conv(tiles: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates with stride 1 and zero padding of one pixel.

    Args:
      tiles: float32 [4, 4, N, R, S, I], 0 outside the images.
      kernel: float32 [3, 3, I, O].

    Returns:
      float32 [4, 4, N, R, S, O]; outside the images the values mean nothing.
    """
    return _from_places(_products(_to_places(tiles, kernel), _transformed(kernel)))


def _forward(tiles: jax.Array, kernel: jax.Array):
    return conv(tiles, kernel), (tiles, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    """The adjoint of each step, in the opposite order.

    The transformed input is computed again: it would be 2.25 times as large as the
    input, and takes a tenth of the time of the rest.
    """
    tiles, kernel = residuals
    places = _to_places(tiles, kernel)
    grad_products = _mixed(_BOTH_OUTPUTS, grad)
    grad_kernel = lax.dot_general(
        _flat(places),
        _flat(grad_products),
        (((1,), (1,)), ((0,), (0,))),
        precision=FULL,
    )
    kernel_places = jnp.swapaxes(_transformed(kernel), 1, 2)
    grad_places = _products(grad_products, kernel_places)
    taps = _mixed(_BOTH_TAPS.T, grad_kernel.reshape(WINDOW, WINDOW, *kernel.shape[2:]))
    return _summed_places(grad_places, kernel), taps


conv.defvjp(_forward, _backward)

# Both directions at once: [36, 16] and [36, 9].
_BOTH_OUTPUTS = np.kron(OUTPUTS, OUTPUTS).astype(np.float32)
_BOTH_TAPS = np.kron(TAPS, TAPS).astype(np.float32)


def _transformed(kernel: jax.Array) -> jax.Array:
    """The kernel at each place of a window, [36, I, O]."""
    return _mixed(_BOTH_TAPS, kernel).reshape(-1, *kernel.shape[2:])


def _mixed(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Multiplies a matrix [P * P, Q * Q] with an array [Q, Q, ...] to [P, P, ...]."""
    side = round(matrix.shape[0] ** 0.5)
    mixed = jnp.dot(matrix, x.reshape(matrix.shape[1], -1), precision=FULL)
    return mixed.reshape(side, side, *x.shape[2:])


def _flat(places: jax.Array) -> jax.Array:
    """[6, 6, N, R, S, C] as [36, N * R * S, C]."""
    return places.reshape(WINDOW**2, -1, places.shape[-1])


def _products(places: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies the channels of each place with the kernel there."""
    numbers = (((2,), (1,)), ((0,), (0,)))
    products = lax.dot_general(_flat(places), kernel, numbers, precision=FULL)
    return products.reshape(*places.shape[:-1], kernel.shape[-1])


def _from_places(products: jax.Array) -> jax.Array:
    return _mixed(_BOTH_OUTPUTS.T, products)


def _to_places(tiles: jax.Array, kernel: jax.Array) -> jax.Array:
    """The windows of 6x6 pixels around the tiles, transformed: [6, 6, N, R, S, C]."""
    down = _separate(kernel, lambda x: _windows(x, ROWS), tiles)
    return _windows(down, COLUMNS)


def _windows(x: jax.Array, axis: int) -> jax.Array:
    """Transforms windows along one axis, from four pixels of each tile to six places.

    A window has a pixel of the tile before and one of the tile after.
    """
    pixels = [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(TILE)]
    before, after = _moved(pixels[-1], axis, 1), _moved(pixels[0], axis, -1)
    return _combined(INPUTS, [before, *pixels, after], axis)


def _summed_places(places: jax.Array, kernel: jax.Array) -> jax.Array:
    """The adjoint of `_to_places`."""
    down = _separate(kernel, lambda x: _summed_windows(x, ROWS), places)
    return _summed_windows(down, COLUMNS)


def _summed_windows(x: jax.Array, axis: int) -> jax.Array:
    """The adjoint of `_windows`.

    Only the first place has a share of the pixel before, only the last of that after.
    """
    places = [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(WINDOW)]
    beyond = [_moved(places[0], axis, -1), _moved(places[-1], axis, 1)]
    shares = np.zeros((TILE, 2))
    shares[-1, 0], shares[0, 1] = INPUTS[0, 0], INPUTS[-1, -1]
    matrix = np.hstack([INPUTS[:, 1:-1].T, shares])
    return _combined(matrix, [*places, *beyond], axis)


def _moved(x: jax.Array, axis: int, tiles: int) -> jax.Array:
    """Moves [4 or 6, N, R, S, C] by one tile; zeros enter."""
    axis = _MOVES[axis] - 1  # one axis, that of the place, has been taken out
    size, low, high = x.shape[axis], max(tiles, 0), max(-tiles, 0)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (low, high, 0)
    padded = lax.pad(x, jnp.zeros((), x.dtype), padding)
    return lax.slice_in_dim(padded, high, high + size, axis=axis)


def _combined(matrix: np.ndarray, arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """Returns, along a new axis, the sums of the arrays times a row of the matrix."""
    total = 0.0
    for column, array in zip(matrix.T.astype(np.float32), arrays, strict=True):
        shape = [1] * (array.ndim + 1)
        shape[axis] = -1
        total = total + column.reshape(shape) * jnp.expand_dims(array, axis)
    return total


def _separate(
    kernel: jax.Array, function: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    """Calls a function so that its result is computed once, and not for each reader.

    XLA's CPU compiler drops optimization barriers before it fuses, and then computes
    the first half of a transform again for each of the six terms of the second half.
    It does not fuse across a condition.  This one is always true, which the compiler
    does not know: no 32-bit number has 64 bits.
    """
    shape = jax.eval_shape(function, x)
    bits = lax.bitcast_convert_type(kernel[0, 0, 0, 0], jnp.uint32)
    always = lax.population_count(bits) < 64
    return lax.cond(always, function, lambda _: jnp.zeros(shape.shape, shape.dtype), x)
