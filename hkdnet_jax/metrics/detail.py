"""Detail: how much of a fused image's is true, and how much of the true came back.

    H(x) = x - G_s * x, s = 0.8 scale pixels     (what a 1/scale image cannot hold well)
    detail_fidelity = sum |fit|^2 / sum |H(F)|^2
    detail_energy   = sum |fit|^2 / sum |p H(A) + q H(B)|^2

`fit` is the least-squares fit of H(F) by H(A) and H(B) in each block of 36x36 pixels,
and p and q are the weights that F gives the sources in the next lower octave,
G_s * x - G_2s * x, which the small images still hold.  So no fusion rule is taken for
the right one: a weight that is constant in a block, whatever it is, gives 1 and 1.

A and B are the high-resolution sources, F the result of fusing and enlarging them at
1/scale of their resolution.  Fidelity is between 0 and 1: the share of the detail that
the sources explain (R squared); noise, ringing and invented texture lower it.  Energy
is near 1 for a fusion of the high-resolution images, near 0 for a blurred one, and
above 1 for a sharpened one.  Neither says anything about where the weights are right.
Both are ours; docs/metrics.md says what they are good for.
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from hkdnet_jax.metrics.types import Image

BLOCK = 36  # least side of a block in pixels, divisible by the scales
_SIGMA = 0.8  # pixels of the small image


def detail_fidelity(
    ir: Image, vis: Image, fused: Image, *, scale: int | float
) -> float:
    """Computes the share of the detail that is true; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255; H and W at least BLOCK.
      scale: by how much the fused image was enlarged.

    Returns:
      Scalar; NaN if the fused image is flat.
    """
    fit, total, _ = _energies(ir, vis, fused, scale)
    return fit / total


def detail_energy(ir: Image, vis: Image, fused: Image, *, scale: int | float) -> float:
    """Computes the share of the true detail that came back; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255; H and W at least BLOCK.
      scale: by how much the fused image was enlarged.

    Returns:
      Scalar; NaN if both sources or the fused image are flat.
    """
    fit, _, true = _energies(ir, vis, fused, scale)
    return fit / true


def _energies(
    ir: Image, vis: Image, fused: Image, scale: int | float
) -> tuple[np.float64, np.float64, np.float64]:
    """Sums of squares of the fit, of the result's detail and of the true detail."""
    images = np.stack([ir, vis, fused])
    sigma = _SIGMA * scale
    low, lower = (
        ndimage.gaussian_filter(images, (0, s, s)) for s in (sigma, 2 * sigma)
    )
    fit = total = true = np.float64(0)
    for high, band in zip(_blocks(images - low), _blocks(low - lower), strict=True):
        sources, detail = high[:, :2], high[:, 2]
        fit += np.sum((sources @ _weights(sources, detail)) ** 2)
        total += np.sum(detail**2)
        true += np.sum((sources @ _weights(band[:, :2], band[:, 2])) ** 2)
    return fit, total, true


def _weights(sources: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Least-squares weights [2] of sources [N, 2]; the shortest if there are many."""
    return np.linalg.lstsq(sources, result, rcond=None)[0]


def _blocks(planes: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts [3, H, W] into [N, 3] each; what is left over goes to all blocks."""
    rows, columns = (max(1, side // BLOCK) for side in planes.shape[1:])
    for strip in np.array_split(planes, rows, axis=1):
        for block in np.array_split(strip, columns, axis=2):
            yield block.reshape(3, -1).T
