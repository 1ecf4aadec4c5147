"""The self-ensemble: the mean of what a network makes of a pair turned and mirrored.

A scene may be mirrored and turned by right angles without becoming another one, but a
trained network makes slightly different pictures of the eight views.  What differs is
mostly error, and their mean has less of it.  It takes the time of eight pictures, and
hardly more memory than one.

Source: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution",
CVPR Workshops 2017 (there called geometric self-ensemble).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

_MIRRORED = ((), (1,), (2,), (1, 2))  # axes of [N, H, W, 1]


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """A network whose pictures are means over the eight views.

    Attributes:
      network: the network, whose parameters these are.
    """

    network: nn.Module


def symmetric_mean(
    fuse: Callable[[jax.Array, jax.Array], jax.Array], ir: jax.Array, vis: jax.Array
) -> jax.Array:
    """The mean of a fusion over the eight symmetries of the square.

    The views of one orientation go through one program, one after the other, so that
    compiling and memory are those of one or two views and not of eight.

    Args:
      fuse: maps float [N, H, W, 1] each to [N, scale * H, scale * W, 1].
      ir: infrared images.
      vis: visible images.

    Returns:
      What `fuse` returns; equal to fuse(ir, vis), up to rounding, if that turns and
      mirrors its result as its input is.
    """
    mean = 0.0
    for turned in (False, True):
        pair = [jnp.swapaxes(x, 1, 2) if turned else x for x in (ir, vis)]
        views = [jnp.stack([jnp.flip(x, axes) for axes in _MIRRORED]) for x in pair]
        fused = jax.lax.map(lambda view: fuse(*view), tuple(views))
        back = [jnp.flip(x, a) for x, a in zip(fused, _MIRRORED, strict=True)]
        part = sum(back) / (2 * len(_MIRRORED))
        mean = mean + (jnp.swapaxes(part, 1, 2) if turned else part)
    return mean
