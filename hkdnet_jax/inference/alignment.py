"""Finds the offset between an infrared and a visible image, and takes it out.

Both cameras see the same outlines, but not the same levels: an edge may lead from
bright to dark in one image and from dark to bright in the other. So gradients are
compared by magnitude and orientation, not by sign: OpenCV's ECC (Evangelidis & Psarakis
2008) maximises their correlation, from a coarse search to the full resolution. It does
so in both directions, and the estimate is refused unless they agree.

Matrices map pixel coordinates (x, y, 1) of the visible image to those of the infrared
image; the centre of the upper left pixel is (0, 0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from hkdnet_jax.common import levels
from hkdnet_jax.common.errors import needs_extra

MOTIONS = ("translation", "affine", "homography")
Image = Float32[np.ndarray, "h w"]
Matrix = Float[np.ndarray, "3 3"]

LEAST_SIDE = 48  # pixels; outlines in a smaller image tell no offset
_COARSE_SIDE = 100  # longest side, in pixels, down to which the levels halve
_FINE_SIDE = 640  # larger images are compared at this size
_ANGLES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # degrees, searched
_ZOOMS = (0.97, 1.0, 1.03)  # searched
_FARTHEST = 0.12  # of a side: the largest shift that is searched
_NEIGHBOURHOOD = 8.0  # pixels: sigma of the window in which gradients are evened
_RING = 3  # pixels at the border, whose gradients padding decides
_ITERATIONS, _LEAST_GAIN = 40, 1e-5
# Bounds of an estimate that is believed, from made offsets on registered pairs (see
# docs/cameras.md): the correlation of the gradients, the disagreement of the two
# directions in pixels of the compared size, and how far a point may move, as a share of
# the diagonal.
_LEAST_SCORE = 0.16
_MOST_DISAGREEMENT = 0.8
_MOST_MOVED = 0.15
# Of a folder with a fixed rig: how many pairs are looked at, and how many pixels apart
# two estimates may be that agree.
PAIRS_LOOKED_AT = 16
_SAME_RIG = 1.5


class NotAligned(Exception):
    """The offset cannot be told; the message says why, as the end of a sentence."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """The offset between the images of a pair.

    Attributes:
      matrix: float64 [3, 3], see the module; for images of `size`.
      size: (height, width) of both images, in pixels.
      score: correlation of the gradients after alignment, at most 1.
    """

    matrix: Matrix
    size: tuple[int, int]
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """Pixels right and down that the middle of the infrared image is off."""
        middle = (np.array(self.size[::-1]) - 1)[None] / 2
        x, y = (_map(self.matrix, middle) - middle)[0]
        return float(x), float(y)

    @property
    def farthest(self) -> float:
        """The largest distance in pixels that a point of the image is off."""
        grid = _grid(self.size)
        return float(np.linalg.norm(_map(self.matrix, grid) - grid, axis=1).max())

    def distance(self, other: "Alignment") -> float:
        """What two alignments differ in pixels, as a root mean square."""
        return _distance(self.matrix, other.matrix, self.size)

    def __str__(self) -> str:
        """As a part of a sentence."""
        x, y = self.centre
        return f"{x:+.1f}, {y:+.1f} pixels in the middle, up to {self.farthest:.1f}"


class Aligned(NamedTuple):
    """An infrared image that fits the visible one.

    Attributes:
      ir: of the dtype and size of the infrared image that was given; what its camera
        did not see is filled with the visible image's luma.
      covered: [H, W], whether the infrared camera saw the pixel.
      alignment: the offset that was taken out.
    """

    ir: np.ndarray
    covered: Bool[np.ndarray, "h w"]
    alignment: Alignment


def align(ir: Any, vis: Any, motion: str = "affine") -> Aligned:
    """Shifts, turns and stretches an infrared image so that it fits the visible one.

    The images must have one size and roughly one view: shifts of up to 12 % of a side
    are searched, and unless the motion is a translation, rotations of up to 3 degrees
    and zooms of up to 3 %, all of which may be exceeded a little.

    Args:
      ir: [H, W] or [H, W, 3] of any integer or floating-point dtype.
      vis: of the same height and width.
      motion: `translation`, `affine` or `homography`.

    Raises:
      NotAligned: the offset cannot be told from the images.
      ValueError: the sizes differ, or `motion` is none of these.
      UserError: OpenCV is not installed.
    """
    gray, guide = (levels.luma(np.asarray(image)) for image in (ir, vis))
    ranges = [
        levels.resolve(levels.AUTO, image, levels.full_range(image.dtype))
        for image in (gray, guide)
    ]
    unit = levels.to_unit(guide, ranges[1])
    found = estimate(levels.to_unit(gray, ranges[0]), unit, motion)
    warped, covered = warp(gray.astype(np.float64), found)
    low, high = ranges[0]
    filled = np.where(covered, warped, low + unit * (high - low))
    if gray.dtype.kind != "f":
        limits = np.iinfo(gray.dtype)
        filled = np.rint(filled).clip(limits.min, limits.max)
    return Aligned(filled.astype(gray.dtype), covered, found)


def estimate(ir: Image, vis: Image, motion: str) -> Alignment:
    """Finds the offset between two images of one scene; see `align`.

    Args:
      ir: float32 [H, W] of any range.
      vis: of the same size.
      motion: one of MOTIONS.

    Raises:
      NotAligned: the estimate does not converge, or is not to be believed.
      ValueError: the sizes differ, or `motion` is none of MOTIONS.
      UserError: OpenCV is not installed.
    """
    if ir.shape != vis.shape or ir.ndim != 2:
        raise ValueError(
            f"ir and vis must have one size, got {ir.shape} and {vis.shape}"
        )
    if motion not in MOTIONS:
        raise ValueError(f"motion must be one of {MOTIONS}, got {motion!r}")
    size = ir.shape
    if min(size) < LEAST_SIDE:
        raise NotAligned(f"each side needs {LEAST_SIDE} pixels")
    pyramid = [_Level.of(ir, vis, shape) for shape in _shapes(size)]
    matrix, score = _search(pyramid, motion)
    back, _ = _search([level.swapped() for level in pyramid], motion)
    if score < _LEAST_SCORE:
        raise NotAligned(f"the outlines of the images hardly agree ({score:.2f} of 1)")
    back = np.linalg.inv(back)
    back /= back[2, 2]
    disagreement = _distance(matrix, back, size)
    compared = max(pyramid[0].ir.shape) / max(size)
    if disagreement * compared > _MOST_DISAGREEMENT:
        raise NotAligned(
            f"two estimates of the offset differ by {disagreement:.1f} pixels"
        )
    found = Alignment((matrix + back) / 2, size, score)
    if found.farthest > _MOST_MOVED * math.hypot(*size):
        raise NotAligned(f"an offset of {found} pixels is not plausible")
    return found


def most_common(found: Sequence[Alignment], pairs: int) -> Alignment:
    """The offset of a fixed rig: the estimate that the others agree with most.

    Args:
      found: the estimates that were not refused, for images of one size.
      pairs: the number of pairs that were looked at.

    Raises:
      NotAligned: fewer than half of the pairs agree with any one estimate.
    """
    agreeing = [[a.distance(b) <= _SAME_RIG for b in found].count(True) for a in found]
    if not found or max(agreeing) < pairs / 2:
        raise NotAligned(
            f"of {pairs} pairs no more than {max(agreeing, default=0)} have one offset"
        )
    centre = [sum(min(a.distance(b), _SAME_RIG) for b in found) for a in found]
    return found[int(np.argmin(centre))]


def warp(image: np.ndarray, alignment: Alignment) -> tuple[np.ndarray, np.ndarray]:
    """Resamples an infrared image so that it fits the visible one.

    Args:
      image: float32 or float64 [H, W].
      alignment: for this size.

    Returns:
      The image, of the same dtype, bicubic; pixels that the camera did not see repeat
      the nearest that it saw. And [H, W] bool, whether it saw the pixel.
    """
    cv2 = _opencv()
    height, width = image.shape
    warped = cv2.warpPerspective(
        image,
        alignment.matrix,
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    points = _map(alignment.matrix, np.stack([x.ravel(), y.ravel()], axis=1))
    margin = 0.5  # the pixels at the border reach as far
    inside = (points >= -margin) & (points <= np.array([width, height]) - 1 + margin)
    # A cubic overshoots beside an edge, which would be a temperature nobody measured.
    warped = np.clip(warped, image.min(), image.max())
    return warped, inside.all(axis=1).reshape(height, width)


@dataclass(frozen=True, eq=False)
class _Level:
    """The gradients of both images at one size, without the ring at the border.

    Attributes:
      ir: float32 [h, w, 3], see `_gradients`.
      vis: like ir.
      scale: [3, 3], maps coordinates of the images to those of `ir` and `vis`.
    """

    ir: np.ndarray
    vis: np.ndarray
    scale: Matrix

    @classmethod
    def of(cls, ir: Image, vis: Image, shape: tuple[int, int]) -> "_Level":
        cv2 = _opencv()
        small = (
            cv2.resize(x, shape[::-1], interpolation=cv2.INTER_AREA) for x in (ir, vis)
        )
        y, x = (new / old for new, old in zip(shape, ir.shape, strict=True))
        # Centres of pixels are whole numbers, so that the corner is at -1/2.
        moved = ((x - 1) / 2 - _RING, (y - 1) / 2 - _RING)
        scale = np.array([[x, 0, moved[0]], [0, y, moved[1]], [0, 0, 1]])
        return cls(*(_gradients(image) for image in small), scale)

    def swapped(self) -> "_Level":
        """The same with the images exchanged."""
        return _Level(self.vis, self.ir, self.scale)

    def here(self, matrix: Matrix) -> Matrix:
        """A matrix between the images as one between the gradients."""
        return self.scale @ matrix @ np.linalg.inv(self.scale)

    def back(self, matrix: Matrix) -> Matrix:
        """The inverse of `here`."""
        return np.linalg.inv(self.scale) @ matrix @ self.scale


def _shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes at which the images are compared, from fine to coarse."""
    finest = min(1.0, _FINE_SIDE / max(size))
    halvings = int(math.log2(max(1.0, max(size) * finest / _COARSE_SIDE)))
    while halvings and min(size) * finest / 2**halvings < LEAST_SIDE / 2:
        halvings -= 1
    return [
        tuple(max(1, round(side * finest / 2**level)) for side in size)
        for level in range(halvings + 1)
    ]


def _gradients(image: Image) -> np.ndarray:
    """The gradients of [H, W] as float32 [H - 2 ring, W - 2 ring, 3].

    The channels are the magnitude m and m cos 2a, m sin 2a with the direction a, which
    a change of sign leaves as they are. Magnitudes are divided by those around, so that
    faint outlines count as strong ones do.
    """
    cv2 = _opencv()
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    dx, dy = (cv2.Scharr(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    power = dx * dx + dy * dy
    around = cv2.GaussianBlur(power, (0, 0), _NEIGHBOURHOOD)
    tiny = np.float32(1e-12)
    magnitude = np.sqrt(power / (around + 0.1 * around.mean() + tiny))
    cosine, sine = (dx * dx - dy * dy), 2 * dx * dy
    channels = [magnitude, *(magnitude * x / (power + tiny) for x in (cosine, sine))]
    inner = np.s_[_RING:-_RING, _RING:-_RING]
    return np.ascontiguousarray(np.dstack(channels)[inner])


def _search(pyramid: Sequence[_Level], motion: str) -> tuple[Matrix, float]:
    """Finds the matrix from coarse to fine, and the correlation at the finest level.

    Raises:
      NotAligned: ECC does not converge.
    """
    cv2 = _opencv()
    shift, rigid, affine, plane = (
        cv2.MOTION_TRANSLATION,
        cv2.MOTION_EUCLIDEAN,
        cv2.MOTION_AFFINE,
        cv2.MOTION_HOMOGRAPHY,
    )
    both = cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS
    matrix, score = pyramid[-1].back(_correlate(pyramid[-1], motion)), 0.0
    for level in reversed(pyramid):
        # From few unknowns to many: each estimate begins beside its optimum.
        kinds = [shift] if motion == "translation" else [affine]
        if motion != "translation" and level is pyramid[-1]:
            kinds = [rigid, affine]
        if motion == "homography" and level is pyramid[0]:
            kinds.append(plane)
        for kind in kinds:
            begin = level.here(matrix)
            try:
                score, end = cv2.findTransformECC(
                    level.vis,
                    level.ir,
                    (begin if kind == plane else begin[:2]).astype(np.float32),
                    kind,
                    (both, _ITERATIONS, _LEAST_GAIN),
                    None,
                    1,  # no further smoothing, which invents pixels at the border
                )
            except cv2.error as error:
                raise NotAligned(
                    "the search for the offset did not converge"
                ) from error
            full = np.eye(3)
            full[: len(end)] = end
            matrix = level.back(full / full[2, 2])
    return matrix, float(score)


def _correlate(level: _Level, motion: str) -> Matrix:
    """The best of all shifts, and for other motions of some rotations and zooms."""
    cv2 = _opencv()
    height, width = level.vis.shape[:2]
    padded = (2 * height, 2 * width)
    rows, columns = (_shifts(side) for side in (height, width))
    overlap = np.outer(height - abs(rows), width - abs(columns))
    spectrum = np.fft.rfft2(level.vis - level.vis.mean((0, 1)), padded, axes=(0, 1))
    best, found = -np.inf, np.eye(3)
    still = motion == "translation"
    for angle in (0.0,) if still else _ANGLES:
        for zoom in (1.0,) if still else _ZOOMS:
            turned = _turn(angle, zoom, (height, width))
            image = cv2.warpPerspective(
                level.ir,
                turned,
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            )
            other = np.fft.rfft2(image - image.mean((0, 1)), padded, axes=(0, 1))
            product = np.fft.irfft2((other * spectrum.conj()).sum(axis=-1), padded)
            mean = product[np.ix_(rows, columns)] / overlap
            mean /= math.sqrt(float((image**2).mean()) + 1e-12)
            row, column = np.unravel_index(mean.argmax(), mean.shape)
            if mean[row, column] > best:
                best, move = mean[row, column], np.eye(3)
                move[:2, 2] = columns[column], rows[row]
                found = turned @ move
    return found


def _shifts(side: int) -> np.ndarray:
    farthest = int(side * _FARTHEST) + 1
    return np.r_[0 : farthest + 1, -farthest:0]


def _turn(angle: float, zoom: float, size: tuple[int, int]) -> Matrix:
    """Rotation by `angle` degrees and zoom around the middle of an image."""
    radians = math.radians(angle)
    cosine, sine = zoom * math.cos(radians), zoom * math.sin(radians)
    middle = (np.array(size[::-1]) - 1) / 2
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    matrix[:2, 2] = middle - matrix[:2, :2] @ middle
    return matrix


def _grid(size: tuple[int, int]) -> np.ndarray:
    """Points [49, 2] all over an image, its corners included."""
    y, x = (np.linspace(0, side - 1, 7) for side in size)
    return np.stack([axis.ravel() for axis in np.meshgrid(x, y)], axis=1)


def _map(matrix: Matrix, points: np.ndarray) -> np.ndarray:
    mapped = np.c_[points, np.ones(len(points))] @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def _distance(one: Matrix, other: Matrix, size: tuple[int, int]) -> float:
    grid = _grid(size)
    apart = _map(one, grid) - _map(other, grid)
    return float(np.sqrt((apart**2).sum(axis=1).mean()))


def _opencv() -> Any:
    """OpenCV, which is imported only where it is used."""
    with needs_extra("Alignment", "align"):
        import cv2
    return cv2
