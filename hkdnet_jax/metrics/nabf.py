"""Nabf, fusion artefacts: edges of the fused image that neither source has.

    Nabf = sum over pixels with g_F > g_A and g_F > g_B of
           ((1 - Q_A) w_A + (1 - Q_B) w_B), over the sum of w_A + w_B at all pixels
    Q_X = sqrt(0.9999 / (1 + exp(-19 (G - 0.5))) * 0.9995 / (1 + exp(-22 (D - 0.5))))
    G = min(g_X, g_F) / max(g_X, g_F),  D = | |a_X - a_F| - pi/2 | * 2/pi
    w_X = g_X^1.5 where g_X >= 2, else 0.001

g is the strength of Sobel / 8 on levels 0..255, border reflected; a = atan(d_x / d_y),
0 where g is 0.  Range 0 to 1, LOWER is better.  Widely used scripts give it images in
[0, 1], where no edge reaches 2 and every weight is 0.001: their numbers differ.
Petrovic's own form sums (2 - Q_A - Q_B) (w_A + w_B) instead.
Source: Shreyamsha Kumar, "Multifocus and multispectral image fusion based on pixel
significance using discrete cosine harmonic wavelet transform", Signal, Image and Video
Processing 7, 2013; Petrovic & Xydeas, "Objective image fusion performance
characterisation", ICCV 2005.
"""

import numpy as np

from hkdnet_jax.metrics.edges import relative_strength
from hkdnet_jax.metrics.types import Image
from hkdnet_jax.metrics.windows import sobel

_LEAST_STRENGTH = 2  # levels per pixel
_LEAST_WEIGHT = 0.001


def nabf(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the share of artefacts, lower is better; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255; H and W at least 3.

    Returns:
      Scalar.
    """
    edges_f, edges_a, edges_b = _edges(fused), _edges(ir), _edges(vis)
    artefact = (edges_f[0] > edges_a[0]) & (edges_f[0] > edges_b[0])
    lost, total = 0.0, 0.0
    for edges in (edges_a, edges_b):
        strength = edges[0]
        weight = np.where(
            strength >= _LEAST_STRENGTH, strength * np.sqrt(strength), _LEAST_WEIGHT
        )
        loss = (1 - _preservation(edges, edges_f)) * weight
        lost += np.sum(np.where(artefact, loss, 0))
        total += np.sum(weight)
    return float(lost / total)


def _edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes edge strength, and orientation in [-pi/2, pi/2], each [H, W]."""
    right, down = sobel(np.pad(x, 1, mode="reflect"))
    strength = np.sqrt(right**2 + down**2) / 8
    flat = strength == 0
    # Where only `down` is 0 the quotient is infinite and its arctangent pi/2.
    orientation = np.arctan(right / np.where(flat, 1, down))
    return strength, np.where(flat, 0, orientation)


def _preservation(
    source: tuple[np.ndarray, np.ndarray], fused: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Computes Q of every pixel for one source, [H, W]."""
    strength = relative_strength(source[0], fused[0])
    orientation = np.abs(np.abs(source[1] - fused[1]) - np.pi / 2) * (2 / np.pi)
    of_strength = 0.9999 / (1 + np.exp(-19 * (strength - 0.5)))
    of_orientation = 0.9995 / (1 + np.exp(-22 * (orientation - 0.5)))
    return np.sqrt(of_strength * of_orientation)
