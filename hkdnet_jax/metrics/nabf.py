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

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.metrics.edges import relative_strength
from hkdnet_jax.metrics.types import Image, Scalar
from hkdnet_jax.ops.filters import sobel

_LEAST_STRENGTH = 2  # levels per pixel
_LEAST_WEIGHT = 0.001


def nabf(ir: Image, vis: Image, fused: Image) -> Scalar:
    """Computes the share of artefacts, lower is better; see the module.

    Args:
      ir, vis, fused: floating [H, W], levels 0..255; H and W at least 3.

    Returns:
      Scalar.
    """
    edges_f, edges_a, edges_b = _edges(fused), _edges(ir), _edges(vis)
    artefact = (edges_f[0] > edges_a[0]) & (edges_f[0] > edges_b[0])
    lost, total = 0, 0
    for edges in (edges_a, edges_b):
        strength = edges[0]
        weight = jnp.where(
            strength >= _LEAST_STRENGTH, strength * jnp.sqrt(strength), _LEAST_WEIGHT
        )
        loss = (1 - _preservation(edges, edges_f)) * weight
        lost += jnp.sum(jnp.where(artefact, loss, 0))
        total += jnp.sum(weight)
    return lost / total


def _edges(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes edge strength, and orientation in [-pi/2, pi/2], each [H, W]."""
    right, down = sobel(jnp.pad(x, 1, mode="reflect"))
    strength = jnp.sqrt(right**2 + down**2) / 8
    flat = strength == 0
    # Where only `down` is 0 the quotient is infinite and its arctangent pi/2.
    orientation = jnp.arctan(right / jnp.where(flat, 1, down))
    return strength, jnp.where(flat, 0, orientation)


def _preservation(
    source: tuple[jax.Array, jax.Array], fused: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Computes Q of every pixel for one source, [H, W]."""
    strength = relative_strength(source[0], fused[0])
    orientation = jnp.abs(jnp.abs(source[1] - fused[1]) - np.pi / 2) * (2 / np.pi)
    of_strength = 0.9999 / (1 + jnp.exp(-19 * (strength - 0.5)))
    of_orientation = 0.9995 / (1 + jnp.exp(-22 * (orientation - 0.5)))
    return jnp.sqrt(of_strength * of_orientation)
