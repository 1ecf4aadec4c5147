"""Yin [8]: sparse coefficients that both resolutions share, fused and enlarged at once.

Source: Yin, Li and Fang, "Simultaneous image fusion and super-resolution using sparse
representation", Information Fusion 14(3), 2013, of which only the abstract was at hand.

Known: the small sources are split into low and high frequencies; the high frequencies
of a source and of the result have the same sparse coefficients in two dictionaries; the
coefficients of the sources are fused; the dictionary of high resolution makes the high
frequencies of the result.

Our reading: the low frequencies are a Gaussian of 1.5 small pixels, whose average over
the sources is enlarged by bicubic interpolation.  The high ones are coded in 8x8
patches of the small image at every pixel, by orthogonal matching pursuit (OMP) with at
most 12 of 256 atoms.  The source whose coefficients have the larger sum of magnitudes
wins the patch.  The dictionary of high resolution gives the patch's middle, 4x4 small
pixels, in pixels of the result; overlaps are averaged.  At scale 1, the fusion alone,
it is the middle of the small dictionary's own atoms.

Dictionaries: learnt from pairs by `dictionaries`, which is the source of those that
come with the package: the small one by alternating OMP and least squares (Engan's
method of optimal directions), the large ones by least squares on its coefficients (as
Zeyde, Elad and Protter couple theirs).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from hkdnet_jax.baselines.simple import bicubic
from hkdnet_jax.baselines.types import Image, Method
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format

NAME = "yin"
SCALES = (2, 3, 4)
PATCH, MIDDLE = 8, 4  # sides in small pixels
MARGIN = (PATCH - MIDDLE) // 2
ATOMS, USED = 256, 12  # in the dictionary; in a patch at most
LOW = 1.5  # sigma of the low frequencies, small pixels
ENOUGH = 1 / 255  # root mean square of what a patch's atoms may leave out
_ROWS = 4096  # patches at a time, for the memory's sake
_SHIPPED = Path(__file__).parent / "yin_dictionaries"

Dictionaries = Mapping[str, np.ndarray]


def load(weights: Weights) -> Method:
    """Loads the method with `yin` in the folder of weights, or else the package's.

    Raises:
      UserError: the folder holds something else by that name.
    """
    own = weights.folder and weights.folder / NAME
    directory = own if own and own.exists() else _SHIPPED
    config, arrays = file_format.load_model(directory)
    wanted = shapes()
    found = {name: array.shape for name, array in arrays.items()}
    if config.get("kind") != NAME or found != wanted:
        raise UserError(
            f"{directory} holds no dictionaries of {NAME}: write them with: python -m "
            f"hkdnet_jax.baselines.dictionaries --out {directory}."
        )
    dictionaries = {name: array.astype(np.float32) for name, array in arrays.items()}

    def method(ir: Image, vis: Image, scale: int) -> Image:
        return fuse(ir, vis, scale, dictionaries)

    return method


def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the dictionaries: the small one, and one for each scale."""
    large = {f"x{s}": (ATOMS, (MIDDLE * s) ** 2) for s in SCALES}
    return {"small": (ATOMS, PATCH**2)} | large


def fuse(ir: Image, vis: Image, scale: int, dictionaries: Dictionaries) -> Image:
    """Fuses and enlarges a pair; see `types.Method`.

    Args:
      ir: float32 [H, W] in [0, 1], H and W at least 8.
      vis: like ir.
      scale: 1, 2, 3 or 4.
      dictionaries: see `shapes`; the atoms of the small one have the norm 1.

    Returns:
      float32 [scale * H, scale * W], not clipped.

    Raises:
      UserError: the scale or the size is another.
    """
    if scale not in (1, *SCALES) or min(ir.shape) < PATCH:
        raise UserError(
            f"{NAME} cannot enlarge {ir.shape[1]}x{ir.shape[0]} pixels {scale} times: "
            f"both sides need {PATCH} pixels, and the scale is 2, 3 or 4."
        )
    small = dictionaries["small"]
    large = middles(small) if scale == 1 else dictionaries[f"x{scale}"]
    parts = [split(image) for image in (ir, vis)]
    codes = [code(small, patches(high)) for _, high in parts]
    larger = np.abs(codes[0]).sum(1) >= np.abs(codes[1]).sum(1)
    fused = np.where(larger[:, None], *codes)
    low = bicubic((parts[0][0] + parts[1][0]) / 2, scale)
    return low + _average(fused @ large, ir.shape, scale)


def split(image: Image) -> tuple[Image, Image]:
    """The low and the high frequencies of float32 [H, W]."""
    low = ndimage.gaussian_filter(image, LOW, mode="mirror")
    return low, image - low


def patches(image: Image) -> np.ndarray:
    """The patches around all positions of the 4x4 middle inside [H, W].

    The image is continued by reflection.

    Returns:
      [(H - 3) * (W - 3), 64].
    """
    padded = np.pad(image, MARGIN, mode="reflect")
    return sliding_window_view(padded, (PATCH, PATCH)).reshape(-1, PATCH**2)


def middles(small: np.ndarray) -> np.ndarray:
    """The middle 4x4 pixels of atoms, [K, 64] to [K, 16]."""
    window = np.s_[:, MARGIN : MARGIN + MIDDLE, MARGIN : MARGIN + MIDDLE]
    return small.reshape(-1, PATCH, PATCH)[window].reshape(len(small), -1)


def code(
    dictionary: np.ndarray,
    signals: np.ndarray,
    used: int = USED,
    enough: float = ENOUGH,
) -> np.ndarray:
    """Codes signals by orthogonal matching pursuit, many at once.

    Args:
      dictionary: [K, D], atoms of norm 1.
      signals: [N, D].
      used: number of atoms of a signal at most, no more than K.
      enough: root mean square of the rest at which no atom is added.

    Returns:
      float32 [N, K], zero but for the atoms that are used.
    """
    gram = (dictionary @ dictionary.T).astype(np.float32)
    blocks = range(0, len(signals), _ROWS)
    parts = (signals[i : i + _ROWS].astype(np.float32) for i in blocks)
    return np.concatenate([_code(dictionary, gram, x, used, enough) for x in parts])


def _code(
    dictionary: np.ndarray,
    gram: np.ndarray,
    signals: np.ndarray,
    used: int,
    enough: float,
) -> np.ndarray:
    products = signals @ dictionary.T.astype(np.float32)
    energy = (signals**2).sum(1)
    least = signals.shape[1] * enough**2
    codes = np.zeros_like(products)
    open_rows = np.flatnonzero(energy > least)
    chosen = np.zeros((len(signals), used), np.int64)
    rest = products.copy()
    for step in range(used):
        if not len(open_rows):
            break
        best = np.abs(rest[open_rows]).argmax(1)
        chosen[open_rows, step] = best
        support = chosen[open_rows, : step + 1]
        matrix = gram[support[:, :, None], support[:, None, :]]
        matrix = matrix + 1e-6 * np.eye(support.shape[1], dtype=np.float32)
        target = np.take_along_axis(products[open_rows], support, 1)
        values = np.linalg.solve(matrix, target[:, :, None])[:, :, 0]
        block = np.zeros((len(open_rows), len(dictionary)), np.float32)
        np.put_along_axis(block, support, values, 1)
        codes[open_rows] = block
        rest[open_rows] = products[open_rows] - block @ gram
        left = energy[open_rows] - (values * target).sum(1)
        open_rows = open_rows[left > least]
    return codes


def _average(squares: np.ndarray, shape: tuple[int, int], scale: int) -> np.ndarray:
    """Averages overlapping squares of the result.

    Args:
      squares: [(H - 3) * (W - 3), (4 * scale)**2], row by row.
      shape: (H, W) of the small image.
      scale: a whole number.

    Returns:
      float32 [scale * H, scale * W].
    """
    rows, columns = (side - MIDDLE + 1 for side in shape)
    side = MIDDLE * scale
    squares = squares.reshape(rows, columns, side, side)
    total = np.zeros((scale * shape[0], scale * shape[1]), np.float32)
    count = np.zeros_like(total)
    for y in range(side):
        for x in range(side):
            at = np.s_[y : y + scale * rows : scale, x : x + scale * columns : scale]
            total[at] += squares[:, :, y, x]
            count[at] += 1
    return total / count
