"""3x3 convolutions of features that stay in 4x4 tiles, by minimal filtering, for CPUs.

`ops.winograd` explains the method.  Its transforms read and write pixels that are four
apart, which costs more than the products save, if every convolution gathers them anew.
Here the place in a tile comes first: entry [i, j, n, r, s, c] is that of the pixel
(4 r + i, 4 s + j) of image n.  A stack of convolutions is transformed to this layout
once, and each transform is a sum of whole arrays, a few of them moved by one tile.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hkdnet_jax.ops.barriers import separate
from hkdnet_jax.ops.winograd import INPUTS, OUTPUTS, TAPS, TILE, WINDOW, combined
from hkdnet_jax.runtime.precision import FULL


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
      float32 [4, 4, N, R, S, O]; outside the images the values mean nothing, and their
      gradient has to be 0.
    """
    products = _products(_to_places(tiles, kernel), _transformed(kernel))
    return _mixed(_BOTH_OUTPUTS.T, products)


def _forward(tiles: jax.Array, kernel: jax.Array):
    return conv(tiles, kernel), (tiles, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    tiles, kernel = residuals
    grad_tiles = conv(grad, jnp.swapaxes(kernel[::-1, ::-1], 2, 3))
    return grad_tiles, _kernel_gradient(tiles, grad, kernel)


conv.defvjp(_forward, _backward)


def _kernel_gradient(tiles: jax.Array, grad: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient [3, 3, I, O] of a kernel, of which only shape and a number count."""
    inputs = _to_places(tiles, kernel)
    outputs = _mixed(_BOTH_OUTPUTS, grad)
    numbers = (((1,), (1,)), ((0,), (0,)))
    sums = lax.dot_general(_flat(inputs), _flat(outputs), numbers, precision=FULL)
    return _mixed(_BOTH_TAPS.T, sums.reshape(WINDOW, WINDOW, *kernel.shape[2:]))


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
    """Reshapes [6, 6, N, R, S, C] to [36, N * R * S, C]."""
    return places.reshape(WINDOW**2, -1, places.shape[-1])


def _products(places: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies the channels of each place with the kernel there."""
    numbers = (((2,), (1,)), ((0,), (0,)))
    products = lax.dot_general(_flat(places), kernel, numbers, precision=FULL)
    return products.reshape(*places.shape[:-1], kernel.shape[-1])


def _to_places(tiles: jax.Array, kernel: jax.Array) -> jax.Array:
    """The windows of 6x6 pixels around tiles, transformed.

    A window has a pixel of the tile before and one of the tile after on each axis.

    Returns:
      [6, 6, N, R, S, C].
    """

    def down(tiles: jax.Array) -> jax.Array:
        windows = [_down(tiles[-1]), *tiles, _up(tiles[0])]
        return combined(INPUTS, windows, axis=0)

    # Or each of the six terms below would compute the sums above again.
    x = separate(kernel[0, 0, 0, 0], down, tiles)
    columns = [x[:, i] for i in range(TILE)]
    return combined(INPUTS, [_right(columns[-1]), *columns, _left(columns[0])], axis=1)


def _down(x: jax.Array) -> jax.Array:
    """Moves [4, N, R, S, C] by one tile downwards; zeros enter."""
    return jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))[:, :, :-1]


def _up(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0), (0, 0)))[:, :, 1:]


def _right(x: jax.Array) -> jax.Array:
    """Moves [6, N, R, S, C] by one tile to the right; zeros enter."""
    return jnp.pad(x, ((0, 0),) * 3 + ((1, 0), (0, 0)))[:, :, :, :-1]


def _left(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * 3 + ((0, 1), (0, 0)))[:, :, :, 1:]
