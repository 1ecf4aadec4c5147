"""The six metrics of the paper, spelled out in NumPy: slow, and easy to check by eye.

This is a second, independent implementation of what `hkdnet_jax.metrics` computes.
Tests compare the two, and `hkdnet_jax.benchmark` uses this one as its yardstick; for
real work use `hkdnet_jax.metrics.score`.  Every metric takes three uint8 [H, W] images
of the same size (infrared, visible and fused) and returns a float, which is NaN if the
metric has no value.  docs/metrics.md names the sources.
"""

from collections.abc import Callable, Iterable

import numpy as np

EPS = 2.0**-52
# Of a window's index; smaller ones change a score by about 1e-9 unless they are noise.
_LEAST_VARIANCE = 1e-10
Position = tuple[int, int]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation over all values; NaN if one of the two is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / norm) if norm > 0 else float("nan")


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) / 255


def _levels(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64)


def cc(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> float:
    """Mean of the fused image's correlations with the two sources, -1 to 1."""
    a, b, f = _levels(ir), _levels(vis), _levels(fused)
    return (_correlation(a, f) + _correlation(b, f)) / 2


def scd(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> float:
    """Sum of the correlations of differences (Aslantas & Bendes 2015), -2 to 2."""
    a, b, f = _levels(ir), _levels(vis), _levels(fused)
    return _correlation(f - b, a) + _correlation(f - a, b)


def ag(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> float:
    """Average gradient of the fused image scaled to [0, 1]; NaN for a side of 1."""
    f = _unit(fused)
    height, width = f.shape
    if min(height, width) < 2:
        return float("nan")
    down, across = np.empty_like(f), np.empty_like(f)
    across[:, 1:-1] = (f[:, 2:] - f[:, :-2]) / 2
    across[:, 0], across[:, -1] = f[:, 1] - f[:, 0], f[:, -1] - f[:, -2]
    down[1:-1] = (f[2:] - f[:-2]) / 2
    down[0], down[-1] = f[1] - f[0], f[-1] - f[-2]
    total = np.sqrt((across**2 + down**2) / 2).sum()
    return float(total / ((height - 1) * (width - 1)))


def fmi_dct(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> float:
    """Feature mutual information of the DCT coefficients; NaN for a side below 3."""
    if min(ir.shape) < 3:
        return float("nan")
    maps = [dct_map(image) for image in (ir, vis, fused)]
    return fmi_of_maps(*maps, window_positions(maps[0].shape))


def fmi_w(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> float:
    """Feature mutual information of the discrete Meyer wavelet coefficients."""
    maps = [wavelet_map(image) for image in (ir, vis, fused)]
    return fmi_of_maps(*maps, window_positions(maps[0].shape))


def window_positions(shape: tuple[int, int]) -> list[Position]:
    """Upper left corners of all 3x3 windows inside a map of this shape."""
    height, width = shape
    return [(row, column) for row in range(height - 2) for column in range(width - 2)]


def fmi_of_maps(
    ir: np.ndarray, vis: np.ndarray, fused: np.ndarray, positions: Iterable[Position]
) -> float:
    """Mean score of the windows at some positions of three feature maps."""
    scores = []
    for row, column in positions:
        # Column by column: the order of the nine values matters.
        a, b, f = (
            feature[row : row + 3, column : column + 3].flatten(order="F")
            for feature in (ir, vis, fused)
        )
        scores.append((window_score(a, f) + window_score(b, f)) / 2)
    return float(np.mean(scores))


def dct_map(image: np.ndarray) -> np.ndarray:
    """Orthonormal two-dimensional DCT-II of the image as one block, [H, W] float64."""
    height, width = image.shape
    return _dct_matrix(height) @ _unit(image) @ _dct_matrix(width).T


def _dct_matrix(size: int) -> np.ndarray:
    """The orthonormal DCT-II matrix, whose row k holds the k-th cosine."""
    frequency, sample = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.cos(np.pi * (sample + 0.5) * frequency / size) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


def wavelet_map(image: np.ndarray) -> np.ndarray:
    """One level of the discrete Meyer wavelet as [cA cH; cV cD], scaled to [0, 1].

    Returns float64 [2 floor((H + 101) / 2), 2 floor((W + 101) / 2)].
    """
    h, k = meyer_filter(), np.arange(102)
    low, high = h[::-1], h * (-1.0) ** (k + 1)
    x = _unit(image)
    # `_analyse` works down the columns; rows are columns of the transpose.
    low_x, high_x = _analyse(x.T, low).T, _analyse(x.T, high).T
    top = [_analyse(low_x, low), _analyse(low_x, high)]  # cA, cH
    bottom = [_analyse(high_x, low), _analyse(high_x, high)]  # cV, cD
    mosaic = np.block([top, bottom])
    low_end, high_end = mosaic.min(), mosaic.max()
    if low_end == high_end:
        return np.ones_like(mosaic)
    return (mosaic - low_end) / (high_end - low_end)


def meyer_filter() -> np.ndarray:
    """The 102 taps of the discrete Meyer low-pass filter (reconstruction), sum sqrt 2.

    Tap 50 + j is the integral of M(w) cos(w j) over 0 to pi, where M is 1 up to pi/3,
    falls to 0 at 2 pi/3 as a cosine of Meyer's polynomial, and stays 0.
    """
    node, weight = np.polynomial.legendre.leggauss(200)
    w, weight = np.pi / 2 + node * np.pi / 6, weight * np.pi / 6  # pi/3 to 2 pi/3
    x = 3 * w / np.pi - 1
    fall = np.cos(np.pi / 2 * x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3))
    taps = np.zeros(102)
    for j in range(51):
        flat = np.sin(np.pi / 3 * j) / j if j else np.pi / 3  # of 0 to pi/3
        taps[50 + j] = taps[50 - j] = flat + (weight * fall * np.cos(w * j)).sum()
    return taps * np.sqrt(2) / taps.sum()


def _analyse(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Filters every column and keeps the 2nd, 4th, ... value, with mirrored borders."""
    extended = np.pad(x, ((101, 101), (0, 0)), mode="symmetric")
    count = len(x) + 101
    out = np.zeros((count, x.shape[1]))
    # Tap by tap, so that all outputs are summed in the same order: where the image is
    # flat, the coefficients are then exactly equal, without noise that `window_score`
    # would amplify.
    for k, tap in enumerate(taps):
        out += tap * extended[101 - k : 101 - k + count]
    return out[1::2]


def window_score(x: np.ndarray, f: np.ndarray) -> float:
    """Normalised mutual information of two windows of 9 values, column by column.

    Each window is read as the distribution of an index 1..9.  The joint distribution
    interpolates between independence and the Frechet bound; its weight phi is the ratio
    of the windows' correlation to that of the bound.
    """
    if np.array_equal(x, f) or (np.ptp(x) == 0 and np.ptp(f) == 0):
        return 1.0
    p, q = _distribution(x), _distribution(f)
    big_p, big_q = np.cumsum(p), np.cumsum(q)
    spread_p, spread_q = _spread(p), _spread(q)

    dp, dq = p - p.mean(), q - q.mean()
    covariance = (dp * dq).sum()
    c = covariance / np.sqrt((dp**2).sum() * (dq**2).sum()) if covariance != 0 else 0.0

    # Rows belong to the fused window, columns to the source's.
    product = np.outer(big_q, big_p)
    if c >= 0:
        bound = np.minimum(big_q[:, None], big_p[None, :])
    else:
        bound = np.maximum(big_q[:, None] + big_p[None, :] - 1, 0.0)
    if c == 0 or spread_p == 0 or spread_q == 0:
        phi = 0.0
    else:
        rho = (bound - product).sum() / (spread_q * spread_p)
        phi = c / rho  # not limited to 1

    padded = np.pad(bound, ((1, 0), (1, 0)))
    pieces = padded[1:, 1:] - padded[:-1, 1:] - padded[1:, :-1] + padded[:-1, :-1]
    joint = phi * pieces + (1 - phi) * np.outer(q, p)
    information = _entropy(p) + _entropy(q) - _entropy(joint)
    if information == 0:
        return 0.0
    return float(2 * information / (_entropy(p) + _entropy(q)))


def _distribution(x: np.ndarray) -> np.ndarray:
    """Scales values to [0, 1] (a constant to ones), and then to the sum 1."""
    low, high = x.min(), x.max()
    scaled = (x - low) / (high - low) if high > low else np.ones_like(x)
    return scaled / scaled.sum()


def _spread(p: np.ndarray) -> float:
    """Standard deviation of the index, 0 if it is only a rounding error."""
    i = np.arange(1, 10)
    mean = (i * p).sum()
    variance = (i**2 * p).sum() - mean**2
    # With nearly all weight on one index, as around the DCT coefficient that holds the
    # mean of a flat image, the difference can even be negative, and phi arbitrary.
    return np.sqrt(variance) if variance > _LEAST_VARIANCE else 0.0


def _entropy(p: np.ndarray) -> float:
    """Entropy in bits; a negative joint "probability" enters the log as its size."""
    p = p[p != 0]
    return -(p * np.log2(np.abs(p))).sum()


_WINDOW = 11
_C = (0.03 * 255) ** 2
_SCALE_WEIGHTS = np.array([0.0448, 0.2856, 0.3001]) / 0.6305


def ms_ssim(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> float:
    """Structural similarity for fusion on three scales; NaN for a side below 44.

    It is NaN too if the mean of a scale is negative, since that has no real power.
    """
    a, b, f = _levels(ir), _levels(vis), _levels(fused)
    if min(a.shape) / 4 < _WINDOW:
        return float("nan")
    value = 1.0
    for weight in _SCALE_WEIGHTS:
        quality = scale_quality(a, b, f)
        if quality < 0:
            return float("nan")
        value *= quality**weight
        a, b, f = (_halve(image) for image in (a, b, f))
    return float(value)


def scale_quality(a: np.ndarray, b: np.ndarray, f: np.ndarray) -> float:
    """Mean quality of all 11x11 patches of images [H, W] with levels 0..255."""
    rows = [
        _patch_quality(*(_patches_of_row(image, row) for image in (a, b, f)))
        for row in range(a.shape[0] - _WINDOW + 1)
    ]
    return float(np.mean(rows))


def _patches_of_row(image: np.ndarray, row: int) -> np.ndarray:
    """The patches whose upper edge is in this row, [W - 10, 121]."""
    strip = image[row : row + _WINDOW]
    count = image.shape[1] - _WINDOW + 1
    return np.array([strip[:, i : i + _WINDOW].ravel() for i in range(count)])


def _patch_quality(a: np.ndarray, b: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Quality of fused patches [patches, 121] against their sources, [patches]."""
    z_a = a - a.mean(axis=1, keepdims=True)
    z_b = b - b.mean(axis=1, keepdims=True)
    e_a, e_b = _norm(z_a) + 0.001, _norm(z_b) + 0.001

    # The more the structures agree, the more the stronger one prevails.
    agreement = (_norm(z_a + z_b) + EPS) / (_norm(z_a) + _norm(z_b) + EPS)
    agreement = np.where(agreement > 1, 1 - EPS, agreement)
    power = np.minimum(np.tan(np.pi / 2 * agreement), 10.0)
    v_a, v_b = (e_a / _WINDOW) ** power + EPS, (e_b / _WINDOW) ** power + EPS
    v_a, v_b = v_a / (v_a + v_b), v_b / (v_a + v_b)

    # The patch that an ideal fusion would show.
    r = v_a * z_a / e_a + v_b * z_b / e_b
    length = _norm(r)
    r = np.where(length > 0, r / np.where(length > 0, length, 1), r)
    r = np.where(length > 0, r * np.maximum(e_a, e_b), r)

    g = _gaussian()
    d_r = r - (g * r).sum(axis=1, keepdims=True)
    d_f = f - (g * f).sum(axis=1, keepdims=True)
    var_r, var_f = (g * d_r**2).sum(axis=1), (g * d_f**2).sum(axis=1)
    covariance = (g * d_r * d_f).sum(axis=1)
    return (2 * covariance + _C) / (var_r + var_f + _C)


def _norm(z: np.ndarray) -> np.ndarray:
    return np.sqrt((z**2).sum(axis=1, keepdims=True))


def _gaussian() -> np.ndarray:
    """Gaussian weights of a patch, [121], with sigma 1.5 pixels and sum 1."""
    offset = np.arange(_WINDOW) - _WINDOW // 2
    squared = offset[:, None] ** 2 + offset[None, :] ** 2
    weights = np.exp(-squared / (2 * 1.5**2))
    return (weights / weights.sum()).ravel()


def _halve(image: np.ndarray) -> np.ndarray:
    """Means of 2x2 blocks; the last row or column is repeated if the size is odd."""
    height, width = image.shape
    image = np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    upper = image[0::2, 0::2] + image[0::2, 1::2]
    lower = image[1::2, 0::2] + image[1::2, 1::2]
    return (upper + lower) / 4


PAPER: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "FMI_dct": fmi_dct,
    "FMI_w": fmi_w,
    "SCD": scd,
    "MS_SSIM": ms_ssim,
    "AG": ag,
    "CC": cc,
}
