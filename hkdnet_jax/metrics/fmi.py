"""FMI, feature mutual information, on DCT and on wavelet features.

    FMI = mean over all 3x3 windows of (score(A, F) + score(B, F)) / 2

Each image becomes a feature map: `FMI_dct` takes one DCT-II of the entire image,
`FMI_w` the mosaic of one level of the discrete Meyer wavelet transform
(`metrics.meyer`).  The values of a window, scaled to [0, 1] and then to sum 1, are read
as the distribution of a random index 1..9.  The joint distribution of two such windows
is between independence and the Fréchet bound, as their correlation determines, and

    score = 2 (H_x + H_f - H_xf) / (H_x + H_f).

Values are about 0.1 to 0.7 for real images and 1 for equal ones; higher is better.  The
values inside a window are taken down the columns, so that transposing the images
changes the result a little.
Source: Haghighat & Razian, "Fast-FMI: Non-reference image fusion metric", AICT 2014,
and the authors' MATLAB code; comments say what it does where the paper is silent.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import fft

from hkdnet_jax.metrics import meyer
from hkdnet_jax.metrics.types import Image
from hkdnet_jax.runtime import devices

_SIDE = 3  # side of a window, pixels
_CELLS = _SIDE * _SIDE
_TILE = 64  # side of the tiles of windows that are scored together
_TILES_AT_ONCE = 8
# Variance of an index 1..9 below which it counts as 0.  Rounding leaves about 1e-14; a
# real variance below this bound changes a score by about 1e-9.
_LEAST_VARIANCE = 1e-10

# Nine arrays, one for each place in a window, each with one value per window.  All
# operations are elementwise, which XLA turns into vectorised loops; on [9, ...] arrays
# they ran four times slower.
Cells = list[jax.Array]


def fmi_dct(ir: Image, vis: Image, fused: Image) -> float:
    """Computes FMI on the DCT of the entire image; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255, H and W at least 3.
    """
    return _mean_score(*(fft.dctn(image, norm="ortho") for image in (ir, vis, fused)))


def fmi_w(ir: Image, vis: Image, fused: Image) -> float:
    """Computes FMI on the wavelet mosaic; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255.
    """
    # The MATLAB code first scales the entire mosaic to [0, 1].  This does not matter,
    # because each window is scaled again by itself.
    return _mean_score(*(meyer.mosaic(image) for image in (ir, vis, fused)))


def _mean_score(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> float:
    """Averages the scores of both sources and all windows of feature maps [m, n].

    The windows go to the device in tiles of one size, so that one program serves
    images of every size.
    """
    rows, columns = (side - _SIDE + 1 for side in fused.shape)
    down, across = (-(-count // _TILE) for count in (rows, columns))
    inside = np.zeros((down * _TILE, across * _TILE), bool)
    inside[:rows, :columns] = True
    total = 0.0
    seen = _tiles(inside, _TILE, _TILE)
    with jax.enable_x64(True):
        for first in range(0, len(seen), _TILES_AT_ONCE):
            part = slice(first, first + _TILES_AT_ONCE)
            for source in (ir, vis):
                maps = (_map_tiles(x, down, across)[part] for x in (source, fused))
                arrays = (_filled(x) for x in (*maps, seen[part]))
                total += float(
                    _tile_sums(*jax.device_put(tuple(arrays), devices.cpu()))
                )
    return total / (2 * rows * columns)


def _map_tiles(features: np.ndarray, down: int, across: int) -> np.ndarray:
    """Cuts a map into [down * across, tile + 2, tile + 2], which overlap by two."""
    height, width = features.shape
    overlap = _SIDE - 1
    missing = (down * _TILE + overlap - height, across * _TILE + overlap - width)
    padded = np.pad(features, [(0, side) for side in missing], mode="edge")
    return _tiles(padded, _TILE + overlap, _TILE)


def _tiles(image: np.ndarray, side: int, step: int) -> np.ndarray:
    views = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    return views[::step, ::step].reshape(-1, side, side)


def _filled(tiles: np.ndarray) -> np.ndarray:
    """Fills the last tiles of an image up with zeros, to `_TILES_AT_ONCE`."""
    missing = _TILES_AT_ONCE - len(tiles)
    return np.pad(tiles, ((0, missing), (0, 0), (0, 0)))


@jax.jit
def _tile_sums(source: jax.Array, fused: jax.Array, inside: jax.Array) -> jax.Array:
    """Sums the scores of windows of tiles [n, side, side] that lie inside the map."""

    def tile_sum(tile: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        x, f, seen = tile
        return jnp.sum(jnp.where(seen, window_score(_windows(x), _windows(f)), 0))

    # One after the other: a tile's temporaries stay in a core's second-level cache.
    return jnp.sum(lax.map(tile_sum, (source, fused, inside)))


def _windows(strip: jax.Array) -> Cells:
    """Returns the nine cells of all 3x3 windows of [h, w], down the columns first.

    Each is [h - 2, w - 2].
    """
    h, w = strip.shape
    return [
        strip[i : h - _SIDE + 1 + i, j : w - _SIDE + 1 + j]
        for j in range(_SIDE)
        for i in range(_SIDE)
    ]


def window_score(x: Cells, f: Cells) -> jax.Array:
    """Computes the score of windows of a source, x, and of the fused image, f.

    Args:
      x, f: nine floating arrays of one shape, with one element per window; the order is
        down the first column of a window, then the second, then the third.

    Returns:
      An array of that shape.
    """
    p, x_flat = _distribution(x)
    q, f_flat = _distribution(f)
    c = jnp.where(x_flat | f_flat, 0, _correlation(p, q))
    # Each value is used about twenty times below; without the barrier XLA would compute
    # it again each time.
    p, q, c = lax.optimization_barrier((p, q, c))
    h_x, h_f = _entropy(p), _entropy(q)
    information = h_x + h_f - _joint_entropy(p, q, c)
    score = 2 * information / (h_x + h_f)
    # Between a flat window and another one there is only rounding noise, which the
    # MATLAB code rounds to about 1e-16; it gives 1 to two flat ones.
    score = jnp.where(x_flat | f_flat | (information == 0), 0, score)
    equal = _all(a == b for a, b in zip(x, f, strict=True))
    return jnp.where((x_flat & f_flat) | equal, 1, score)


def _distribution(cells: Cells) -> tuple[Cells, jax.Array]:
    """Scales values to [0, 1] and then to sum 1; also returns where all were equal."""
    low, high = cells[0], cells[0]
    for cell in cells[1:]:
        low, high = jnp.minimum(low, cell), jnp.maximum(high, cell)
    flat = low == high
    span = jnp.where(flat, 1, high - low)
    scaled = [jnp.where(flat, 1, (cell - low) / span) for cell in cells]
    total = sum(scaled)
    return [cell / total for cell in scaled], flat


def _correlation(p: Cells, q: Cells) -> jax.Array:
    """Computes Pearson's correlation of nine values; 0 where the covariance is 0."""
    mean = 1 / _CELLS
    product = sum((a - mean) * (b - mean) for a, b in zip(p, q, strict=True))
    norm = sum((a - mean) ** 2 for a in p) * sum((b - mean) ** 2 for b in q)
    return jnp.where(product == 0, 0, product / jnp.sqrt(norm))


def _entropy(p: Cells) -> jax.Array:
    return -sum(_x_log_x(cell) for cell in p)


def _x_log_x(x: jax.Array) -> jax.Array:
    """Returns x log2 |x|, 0 at 0; joint "probabilities" below may be negative."""
    return x * jnp.log2(jnp.where(x == 0, 1, jnp.abs(x)))


def _joint_entropy(p: Cells, q: Cells, c: jax.Array) -> jax.Array:
    """Computes the entropy of `phi D + (1 - phi) q p`, where phi = c / rho.

    D is the joint distribution of the Fréchet bound, the upper one where c >= 0, and
    rho the correlation of the two indices under it.  phi is not clamped: above 1 it
    makes some entries negative.
    """
    p_end, q_end = _cumulative(p), _cumulative(q)
    p_start, q_start = _starts(p_end), _starts(q_end)
    # Under the upper bound one uniform number u determines both indices: each index has
    # its piece of [0, 1], and D is the length that two pieces share.  The lower bound
    # reverses one of them.
    upper = c >= 0
    start = [jnp.where(upper, a, 1 - b) for a, b in zip(p_start, p_end, strict=True)]
    end = [jnp.where(upper, b, 1 - a) for a, b in zip(p_start, p_end, strict=True)]
    phi = _share_of_bound(p, q, p_end, q_end, c)

    def add_row(entropy: jax.Array, row: tuple[jax.Array, ...]):
        start_i, end_i, q_i = row
        for start_j, end_j, p_j in zip(start, end, p, strict=True):
            shared = jnp.minimum(end_i, end_j) - jnp.maximum(start_i, start_j)
            joint = phi * jnp.maximum(shared, 0) + (1 - phi) * q_i * p_j
            entropy -= _x_log_x(joint)
        return entropy, None

    # This is a loop over the rows of D, because all 81 entries written out take ten
    # times as long to compile.
    rows = jnp.stack(q_start), jnp.stack(q_end), jnp.stack(q)
    entropy, _ = lax.scan(add_row, jnp.zeros_like(c), rows)
    return entropy


def _share_of_bound(
    p: Cells, q: Cells, p_end: Cells, q_end: Cells, c: jax.Array
) -> jax.Array:
    """Computes phi = c s_p s_q / S.

    S is the sum of (bound - independence) of the cumulative sums.  By Hoeffding's
    formula it is the covariance of the two indices under the bound.
    """
    upper = c >= 0
    # The upper bound is min(Q, P), the lower max(Q + P - 1, 0) = Q - min(Q, 1 - P).
    level = [jnp.where(upper, cell, 1 - cell) for cell in p_end]
    least = sum(jnp.minimum(a, b) for a in q_end for b in level)
    p_sum, q_sum = sum(p_end), sum(q_end)
    covariance = jnp.where(upper, least, _CELLS * q_sum - least) - p_sum * q_sum
    scale = c * _deviation(p) * _deviation(q)
    zero = (scale == 0) | (covariance == 0)
    return jnp.where(zero, 0, scale / jnp.where(zero, 1, covariance))


def _deviation(p: Cells) -> jax.Array:
    """Computes the standard deviation of the index 1..9; 0 if it is only rounding."""
    mean = sum(k * cell for k, cell in enumerate(p, start=1))
    square = sum(k**2 * cell for k, cell in enumerate(p, start=1))
    variance = square - mean**2
    # Nearly all weight may be on one index, as at the mean of a flat image among its
    # DCT coefficients; phi would then be an arbitrary ratio of two rounding errors.
    real = variance > _LEAST_VARIANCE
    return jnp.where(real, jnp.sqrt(jnp.where(real, variance, 1)), 0)


def _cumulative(p: Cells) -> Cells:
    sums = [p[0]]
    for cell in p[1:]:
        sums.append(sums[-1] + cell)
    return sums


def _starts(ends: Cells) -> Cells:
    return [jnp.zeros_like(ends[0]), *ends[:-1]]


def _all(conditions) -> jax.Array:
    result = True
    for condition in conditions:
        result &= condition
    return result
