"""Qabf, edge information carried over from the sources.

    Qabf = sum(Q_A g_A + Q_B g_B) / sum(g_A + g_B)
    Q_X = 0.9994 / (1 + exp(-15 (G - 0.5))) * 0.9879 / (1 + exp(-22 (D - 0.8)))
    G = min(g_X, g_F) / max(g_X, g_F),  D = 1 - |a_X - a_F| / (pi / 2)

g is the Sobel strength and a = atan(s_y / s_x) the orientation, pi/2 where s_x is 0,
with y upwards and zeros outside the image.  Range 0 to 0.975, higher is better; the
images may have any common scale.  The common MATLAB code sets G = g_F instead of 1
where both strengths are equal: such a pixel gets up to 0.06 % more on levels, but far
less on images in [0, 1].  Petrovic's later papers wrap the difference of orientations
and use other constants, as Nabf does here.
Source: Xydeas & Petrovic, "Objective image fusion performance measure", Electronics
Letters 36(4), 2000.
"""

import numpy as np

from hkdnet_jax.metrics.edges import relative_strength
from hkdnet_jax.metrics.types import Image
from hkdnet_jax.metrics.windows import sobel


def qabf(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the edge preservation; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255.

    Returns:
      Scalar; NaN if both sources are flat, because the only edges are then those that
      the zeros outside make.
    """
    edges_f = _edges(fused)
    kept, total = 0, 0
    for source in (ir, vis):
        edges = _edges(source)
        kept += np.sum(_preservation(edges, edges_f) * edges[0])
        total += np.sum(edges[0])
    if np.ptp(ir) == 0 and np.ptp(vis) == 0:
        return float("nan")
    return float(kept / total)


def _edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes edge strength, and orientation in (-pi/2, pi/2], each [H, W]."""
    right, down = sobel(np.pad(x, 1))
    vertical = right == 0
    orientation = np.arctan(-down / np.where(vertical, 1, right))
    return np.sqrt(right**2 + down**2), np.where(vertical, np.pi / 2, orientation)


def _preservation(
    source: tuple[np.ndarray, np.ndarray], fused: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Computes Q of every pixel for one source, [H, W]."""
    strength = relative_strength(source[0], fused[0])
    orientation = 1 - np.abs(source[1] - fused[1]) / (np.pi / 2)
    of_strength = 0.9994 / (1 + np.exp(-15 * (strength - 0.5)))
    of_orientation = 0.9879 / (1 + np.exp(-22 * (orientation - 0.8)))
    return of_strength * of_orientation
