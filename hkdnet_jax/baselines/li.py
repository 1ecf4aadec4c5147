"""Li [23]: fusion and enlargement by descent on an energy, without any training.

Source: Li, Yu and Mao, "Fractional differential and variational method for image fusion
and super-resolution", Neurocomputing 171, 2016, of which only the abstract was at hand.
(No public page with this citation could be found, so it is not verified.)

Known: the reduced result has a structure tensor like that of the sources; the image
diffuses in both directions; a fractional differential replaces the gradient of total
variation; gradient descent on all of it; enlargement by 2.

Our reading, u the result with levels in [0, 1] and A its reduction as in training:

    E(u) = sum |J(Au) - G|^2 / (4 (tr G + k^2))   J = grad grad^T, G = J(ir) + J(vis)
         + eta / 2 sum (Au - (ir + vis) / 2)^2     the level, which no gradient holds
         + beta sum Psi(|grad u|)        Psi'(s) = s (e^(-s^2/a^2) - c e^(-s^2/b^2))
         + lam sum sqrt(|D^v u|^2 + eps^2)         Gruenwald-Letnikov differences

Psi smooths where the slope is below about a (noise) and steepens it between a and b
(edges).  The order v, all weights and the number of steps are ours, chosen by eye on
one pair at x2, so this is no more than a reading of the method.  Scales 3 and 4 are
beyond the paper, and scale 1 is the fusion alone, with A the identity.

Weights: none.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32

from hkdnet_jax.baselines.types import Image
from hkdnet_jax.common import arrays

STEPS = 100
ORDER = 1.3  # of the fractional differential
TAPS = 5  # of its mask
TENSOR_FLOOR = 0.02  # k
LEVEL, DIFFUSION, VARIATION = 0.2, 0.005, 0.003  # eta, beta, lam
SMOOTH, STEEP, SHARE = 0.02, 0.12, 0.3  # a, b, c
EPSILON = 0.01

Plane = Float32[Array, "h w"]


def fuse(ir: Image, vis: Image, scale: int) -> Image:
    """Fuses and enlarges a pair; see `types.Method`.

    Args:
      ir: float32 [H, W] in [0, 1], H and W at least 2.
      vis: like ir.
      scale: a whole number of at least 1.

    Returns:
      float32 [scale * H, scale * W], not clipped.
    """
    return np.asarray(descend(jnp.asarray(ir), jnp.asarray(vis), scale)[0])


@partial(jax.jit, static_argnames=("scale", "steps"))
def descend(
    ir: Plane, vis: Plane, scale: int, steps: int = STEPS
) -> tuple[Plane, Float32[Array, " n"]]:
    """Descends from the enlarged average of the sources.

    A step is halved until the energy falls, and the next one starts with twice its
    length; if none does, the image stays.

    Returns:
      The image, and the energies before each step and after the last.
    """
    mean = ((ir + vis) / 2)[None, :, :, None]
    start = arrays.resize_bicubic(mean, scale)[0, :, :, 0]
    value_and_gradient = jax.value_and_grad(energy)

    def step(state, _):
        u, length = state
        now, slope = value_and_gradient(u, ir, vis, scale)

        def too_long(trial):
            return (trial[1] >= now) & (trial[0] > 1e-6)

        def halve(trial):
            shorter = trial[0] / 2
            return shorter, energy(u - shorter * slope, ir, vis, scale)

        first = (length, energy(u - length * slope, ir, vis, scale))
        length, after = lax.while_loop(too_long, halve, first)
        u = jnp.where(after < now, u - length * slope, u)
        return (u, 2 * length), now

    (u, _), before = lax.scan(step, (start, jnp.float32(1)), length=steps)
    last = energy(u, ir, vis, scale)
    return u, jnp.append(before, last)


def energy(u: Plane, ir: Plane, vis: Plane, scale: int) -> Float32[Array, ""]:
    """Computes E(u); see the module.

    Args:
      u: [scale * H, scale * W].
      ir: [H, W].
      vis: [H, W].
      scale: a whole number of at least 1.
    """
    small = reduce(u, scale)
    wanted = [a + b for a, b in zip(tensor(ir), tensor(vis), strict=True)]
    xx, xy, yy = (a - b for a, b in zip(tensor(small), wanted, strict=True))
    weight = 4 * (wanted[0] + wanted[2] + TENSOR_FLOOR**2)
    likeness = jnp.sum((xx**2 + 2 * xy**2 + yy**2) / weight)
    level = jnp.sum((small - (ir + vis) / 2) ** 2) / 2
    across, down = gradient(u)
    fractional = sum(fractional_difference(u, axis) ** 2 for axis in (0, 1))
    variation = jnp.sum(jnp.sqrt(fractional + EPSILON**2))
    diffusion = jnp.sum(_potential(across**2 + down**2))
    return likeness + LEVEL * level + DIFFUSION * diffusion + VARIATION * variation


def reduce(u: Plane, scale: int) -> Plane:
    """Reduces as `arrays.degrade` does, but without rounding."""
    shape = (u.shape[0] // scale, u.shape[1] // scale)
    return jax.image.resize(u, shape, "linear", antialias=True)


def gradient(u: Plane) -> tuple[Plane, Plane]:
    """Differences to the right and to the lower neighbour; 0 at the last one."""
    across = jnp.pad(jnp.diff(u, axis=1), ((0, 0), (0, 1)))
    return across, jnp.pad(jnp.diff(u, axis=0), ((0, 1), (0, 0)))


def tensor(u: Plane) -> tuple[Plane, Plane, Plane]:
    """The entries xx, xy and yy of the structure tensor."""
    across, down = gradient(u)
    return across**2, across * down, down**2


def mask(order: float, taps: int) -> np.ndarray:
    """Coefficients of the Gruenwald-Letnikov difference: (-1)^j binomial(order, j).

    The last one stands for all that follow, so that a flat image has no difference.
    """
    j = np.arange(1, taps - 1)
    first = np.cumprod(np.concatenate([[1.0], (j - 1 - order) / j]))
    return np.append(first, -first.sum())


def fractional_difference(u: Plane, axis: int) -> Plane:
    """The difference of order ORDER to earlier pixels; the border is repeated."""
    widths = [(0, 0), (0, 0)]
    widths[axis] = (TAPS - 1, 0)
    padded = jnp.pad(u, widths, mode="edge")
    size = u.shape[axis]
    return sum(
        float(c)
        * lax.slice_in_dim(padded, TAPS - 1 - j, TAPS - 1 - j + size, axis=axis)
        for j, c in enumerate(mask(ORDER, TAPS))
    )


def _potential(squared: Plane) -> Plane:
    """Psi of a squared slope; 0 at 0."""
    small = SMOOTH**2 / 2 * (1 - jnp.exp(-squared / SMOOTH**2))
    large = STEEP**2 / 2 * (1 - jnp.exp(-squared / STEEP**2))
    return small - SHARE * large
