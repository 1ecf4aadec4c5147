"""How far a fused picture's statistics are from those of undistorted ones: naturalness.

Source: Moreno-Villamarin, Benitez-Restrepo and Bovik, "Predicting the quality of fused
long wave infrared and visible light images", IEEE Trans. Image Process. 26 (7), 2017,
with the features of Goodall, Bovik and Paulter, "Tasking on natural statistics of
infrared images", IEEE Trans. Image Process. 25 (1), 2016.

Known: 46 features at each of three scales, of a picture that is stretched to its range:
of normalised luminance (MSCN) shape and deviation, and how much both differ between its
positive and its negative half (4); of its products with four neighbours shape, mean and
both deviations (16); of seven differences of the logarithms of its magnitude shape and
deviation (14); the same of six bands of a steerable pyramid, divided by their local
energy (12).  Quality is the distance from the multivariate Gaussian of undistorted
pictures, `sqrt(d' pinv((S + S') / 2) d)`; smaller is better.

Our reading: as in NIQE (Mittal, Soundararajan and Bovik, 2013), features are of squares
of 96 pixels, whose mean and covariance stand for the picture; MSCN adds 1 level of 255
to the local deviation, and the bands' energy is the local mean of their squares.

The Gaussian is OURS, not the authors': `fit` made `natural_model.npz` of the training
pairs of configs/splits/train.txt, fused without any learning, half by the average and
half by the stronger coefficient of a Laplacian pyramid.  Its distances can be compared
with each other, not with published ones, and they are a weak yardstick: the features
see noise, blur and blocks, and hardly what of which source a picture holds.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

PATCH = 96  # side of a square at the first scale, in pixels
FEATURES = 46
_SCALES = 3
FILE = Path(__file__).with_name("natural_model.npz")
_SHAPES = np.arange(0.05, 10, 0.005)  # of generalised Gaussians
_SIGMA = 7 / 6  # of the window of 7x7 pixels
_LEVEL = 1 / 255
_ORIENTATIONS = 6


class Gaussian(NamedTuple):
    """A multivariate Gaussian of features.

    Attributes:
      mean: float64 [138].
      covariance: float64 [138, 138].
    """

    mean: np.ndarray
    covariance: np.ndarray


def naturalness(picture: np.ndarray, model: Gaussian | None = None) -> float:
    """The distance of a picture from a model; smaller is better.

    Args:
      picture: uint8 [H, W].
      model: of undistorted pictures; ours if None.

    Returns:
      NaN if the picture is flat, or has a side under PATCH.
    """
    found = features(picture)
    if not len(found):
        return np.nan
    model = load() if model is None else model
    own = np.cov(found, rowvar=False) if len(found) > 1 else 0.0
    # Features of one size: the smallest are a thousandth of the largest.
    unit = np.sqrt(np.diag(model.covariance))
    away = (model.mean - found.mean(axis=0)) / unit
    both = (model.covariance + own) / (2 * np.outer(unit, unit))
    inverse = np.linalg.pinv(both, rcond=1e-6, hermitian=True)
    return float(np.sqrt(max(0.0, away @ inverse @ away)))


def load() -> Gaussian:
    """The model that comes with the package."""
    with np.load(FILE) as arrays:
        mean, half = (arrays[name].astype(np.float64) for name in ("mean", "lower"))
    lower = np.zeros((len(mean), len(mean)))
    lower[np.tril_indices(len(mean))] = half
    return Gaussian(mean, lower + np.tril(lower, -1).T)


def fit(pictures: Iterable[np.ndarray]) -> Gaussian:
    """The model of undistorted pictures, uint8 [H, W] each."""
    found = np.concatenate([features(picture) for picture in pictures])
    return Gaussian(found.mean(axis=0), np.cov(found, rowvar=False))


def save(model: Gaussian, file: Path) -> None:
    """Writes a model as float32: the mean, and the covariance without its mirror."""
    lower = model.covariance[np.tril_indices(len(model.mean))]
    arrays = {"mean": model.mean, "lower": lower}
    np.savez_compressed(file, **{k: v.astype(np.float32) for k, v in arrays.items()})


def features(picture: np.ndarray) -> np.ndarray:
    """The features of each square of a picture, row by row from the top left.

    Args:
      picture: uint8 [H, W].

    Returns:
      float64 [squares, 138]; none for a picture that is flat, or smaller than PATCH.
      Squares without any detail are left out.
    """
    low, high = int(picture.min()), int(picture.max())
    if low == high or min(picture.shape) < PATCH:
        return np.zeros((0, _SCALES * FEATURES))
    image = (picture.astype(np.float64) - low) / (high - low)
    rows, columns = (PATCH * (side // PATCH) for side in image.shape)
    image = image[:rows, :columns]
    found = []
    for scale in range(_SCALES):
        if scale:
            image = image.reshape(rows >> scale, 2, columns >> scale, 2).mean((1, 3))
        found.append(_features_at(image, PATCH >> scale))
    whole = np.concatenate(found, axis=1)
    return whole[np.isfinite(whole).all(axis=1)]


def _features_at(image: np.ndarray, side: int) -> np.ndarray:
    """Features of one scale, float64 [squares, 46]."""
    mscn = normalised(image)
    squares = _cut(mscn, side)
    halves = [
        _gaussian(np.where(keep, squares, np.nan))
        for keep in (squares < 0, squares > 0)
    ]
    of_mscn = _gaussian(squares)
    parts = [*of_mscn, *(b - a for a, b in zip(*halves, strict=True))]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        product = mscn * np.roll(mscn, shift, (0, 1))
        parts += _asymmetric(_cut(product, side))
    logs = np.log(np.abs(mscn) + 0.1)
    for difference in _differences(logs):
        parts += _gaussian(_cut(difference, side))
    for band in bands(image):
        energy = ndimage.gaussian_filter(band**2, _SIGMA, radius=3)
        parts += _gaussian(_cut(band / (np.sqrt(energy) + _LEVEL), side))
    return np.stack(parts, axis=1)


def normalised(image: np.ndarray) -> np.ndarray:
    """The MSCN of an image in [0, 1]: less its local mean, over its deviation."""
    mean = ndimage.gaussian_filter(image, _SIGMA, mode="nearest", radius=3)
    square = ndimage.gaussian_filter(image**2, _SIGMA, mode="nearest", radius=3)
    return (image - mean) / (np.sqrt(np.abs(square - mean**2)) + _LEVEL)


def _differences(logs: np.ndarray) -> list[np.ndarray]:
    def at(row: int, column: int) -> np.ndarray:
        return np.roll(logs, (-row, -column), (0, 1))

    pairs = [at(*place) - logs for place in ((0, 1), (1, 0), (1, 1), (1, -1))]
    cross = at(-1, 0) + at(1, 0) - at(0, -1) - at(0, 1)
    near = logs + at(1, 1) - at(0, 1) - at(1, 0)
    far = at(-1, -1) + at(1, 1) - at(-1, 1) - at(1, -1)
    return [*pairs, cross, near, far]


def bands(image: np.ndarray) -> list[np.ndarray]:
    """The finest bands of a steerable pyramid of six orientations, each [H, W].

    Simoncelli and Freeman, "The steerable pyramid", ICIP 1995; made in the frequency
    domain, between a quarter of the sampling rate and the Nyquist limit.
    """
    y, x = (np.fft.fftfreq(side) for side in image.shape)
    radius, angle = np.hypot(y[:, None], x), np.arctan2(y[:, None], x)
    with np.errstate(divide="ignore"):
        octave = np.log2(2 * radius)  # 0 at the Nyquist limit
    low = np.cos(np.pi / 2 * np.clip(octave + 1, 0, 1))
    high = np.sin(np.pi / 2 * np.clip(octave + 2, 0, 1))
    order = _ORIENTATIONS - 1
    gain = 2**order * special.factorial(order)
    gain /= np.sqrt(_ORIENTATIONS * special.factorial(2 * order))
    spectrum = np.fft.fft2(image) * low * high * gain * (-1j) ** order
    return [
        np.fft.ifft2(spectrum * np.cos(angle - np.pi * k / _ORIENTATIONS) ** order).real
        for k in range(_ORIENTATIONS)
    ]


def _cut(image: np.ndarray, side: int) -> np.ndarray:
    """The squares of an image, [squares, pixels]."""
    rows, columns = (length // side for length in image.shape)
    squares = image.reshape(rows, side, columns, side).swapaxes(1, 2)
    return squares.reshape(rows * columns, side * side)


def _ratio(shape: np.ndarray) -> np.ndarray:
    """The squared mean magnitude over the mean square of a generalised Gaussian."""
    gamma = special.gamma
    return gamma(2 / shape) ** 2 / (gamma(1 / shape) * gamma(3 / shape))


_RATIOS = _ratio(_SHAPES)  # increasing


def _gaussian(x: np.ndarray) -> list[np.ndarray]:
    """Shape and deviation of generalised Gaussians, by their moments about 0.

    Args:
      x: [squares, samples]; NaN is no sample.
    """
    kept = np.isfinite(x)
    count = np.maximum(kept.sum(axis=1), 1)
    square = np.sum(x**2, axis=1, where=kept) / count
    magnitude = np.sum(np.abs(x), axis=1, where=kept) / count
    ratio = magnitude**2 / np.where(square > 0, square, np.nan)
    return [np.interp(ratio, _RATIOS, _SHAPES), np.sqrt(square)]


def _asymmetric(x: np.ndarray) -> list[np.ndarray]:
    """Shape, mean and both deviations of asymmetric generalised Gaussians.

    Lasmar, Stitou and Berthoumieu, "Multiscale skewed heavy tailed model for texture
    analysis", ICIP 2009.
    """
    left, right = (_gaussian(np.where(keep, x, np.nan))[1] for keep in (x < 0, x > 0))
    skew = left / np.where(right > 0, right, np.nan)
    ratio = np.mean(np.abs(x), axis=1) ** 2 / np.mean(x**2, axis=1)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = np.interp(ratio, _RATIOS, _SHAPES)
    gamma = special.gamma
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    mean = (right - left) * width * gamma(2 / shape) / gamma(1 / shape)
    return [shape, mean, left, right]
