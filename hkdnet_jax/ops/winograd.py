"""Weight gradient of a 3x3 convolution by minimal filtering, for CPUs.

Winograd, "Arithmetic Complexity of Computations", 1980; Lavin & Gray, "Fast algorithms
for convolutional neural networks", CVPR 2016.  On 4x4 input and 2x2 output tiles the
nine taps take 16 products instead of 36, and all of them are plain matrix products,
which use every core.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

_TILE = 2  # outputs along each side
_WINDOW = _TILE + 2  # inputs along each side
# Bytes of transformed tiles worked on at once: with more than the caches hold the
# transform costs more than it saves.
_CACHED_BYTES = 10 * 2**20

# One array for each place in a tile (or each tap), rows first.
Grid = list[list[jax.Array]]


def images_at_once(x_shape: tuple[int, ...], outputs: int) -> int:
    """How many images `weight_gradient` should take together; 0: it does not pay.

    Args:
      x_shape: (N, H, W, I).
      outputs: O.

    Returns:
      A divisor of N, N itself or at least 2.
    """
    n, h, w, i = x_shape
    tiles = -(-h // _TILE) * -(-w // _TILE)
    image = 4 * _WINDOW**2 * tiles * (i + outputs)  # bytes
    fitting = [k for k in range(1, n + 1) if n % k == 0 and k * image <= _CACHED_BYTES]
    largest = max(fitting, default=0)
    # A loop over single images costs more than it saves.
    return 0 if largest == 1 < n else largest


def weight_gradient(x: jax.Array, grad: jax.Array, together: int) -> jax.Array:
    """Gradient of the kernel of a convolution with zero padding of one pixel.

    Differs from the direct sum by rounding, some 3e-6 of the largest entry.

    Args:
      x: float32 [N, H, W, I], the convolution's input.
      grad: float32 [N, H, W, O], the gradient of its output.
      together: images at once, a divisor of N.

    Returns:
      float32 [3, 3, I, O].
    """
    n, h, w, i = x.shape
    if together == n:
        return _of_images(x, grad)
    groups = tuple(a.reshape(n // together, together, h, w, -1) for a in (x, grad))

    def add(total: jax.Array, group: tuple[jax.Array, jax.Array]):
        return total + _of_images(*group), None

    return lax.scan(add, jnp.zeros((3, 3, i, grad.shape[-1]), x.dtype), groups)[0]


def _of_images(x: jax.Array, grad: jax.Array) -> jax.Array:
    _, h, w, _ = x.shape
    odd_h, odd_w = h % _TILE, w % _TILE
    x = jnp.pad(x, ((0, 0), (1, 1 + odd_h), (1, 1 + odd_w), (0, 0)))
    grad = jnp.pad(grad, ((0, 0), (0, odd_h), (0, odd_w), (0, 0)))
    inputs = _both_ways(_input_transform, _places(x, _WINDOW))
    outputs = _both_ways(_output_transform, _places(grad, _TILE))
    products = [
        [
            lax.dot_general(
                a.reshape(-1, a.shape[-1]),
                b.reshape(-1, b.shape[-1]),
                (((0,), (0,)), ((), ())),
            )
            for a, b in zip(*rows, strict=True)
        ]
        for rows in zip(inputs, outputs, strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _both_ways(_taps, products)])


def _places(x: jax.Array, size: int) -> Grid:
    """x at each place of its tiles of `size`, which begin every _TILE pixels."""
    rows = (x.shape[1] - size) // _TILE * _TILE + 1
    columns = (x.shape[2] - size) // _TILE * _TILE + 1
    return [
        [x[:, i : i + rows : _TILE, j : j + columns : _TILE] for j in range(size)]
        for i in range(size)
    ]


def _both_ways(
    transform: Callable[[Sequence[jax.Array]], list[jax.Array]], grid: Grid
) -> Grid:
    """Transforms every column, then every row."""
    down = zip(*(transform(column) for column in zip(*grid, strict=True)), strict=True)
    return [transform(row) for row in down]


def _input_transform(d: Sequence[jax.Array]) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_transform(g: Sequence[jax.Array]) -> list[jax.Array]:
    return [g[0], g[0] + g[1], g[0] - g[1], -g[1]]


def _taps(m: Sequence[jax.Array]) -> list[jax.Array]:
    half_sum, half_difference = (m[1] + m[2]) / 2, (m[1] - m[2]) / 2
    return [m[0] + half_sum, half_difference, half_sum + m[3]]
