"""How a compared system is trained here; `training` runs it.

Images are float32 [N, H, W, 1] in [0, 1].
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Params = Mapping[str, Any]
Scalars = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What differs between the systems.

    Attributes:
      build: makes the network of a super-resolution factor, for gray images.
      inputs: number of images that the network takes.
      loss: maps (network, params, ir, vis, key) to the loss and its terms.
      validate: maps (network, params, ir, vis) to values of each pair, [N] by name, and
        pictures, named as in `val_steps.PICTURES`.
      criterion: the value of which the best weights have the highest.
    """

    build: Callable[[int], nn.Module]
    inputs: int
    loss: Callable[..., tuple[jax.Array, Scalars]]
    validate: Callable[..., tuple[Scalars, Scalars]]
    criterion: str = "psnr"


def one_of(key: jax.Array, ir: jax.Array, vis: jax.Array) -> jax.Array:
    """Takes the infrared or the visible image of each pair, each with probability 1/2.

    Args:
      key: a random key.
      ir: [N, H, W, 1].
      vis: like ir.
    """
    coin = jax.random.bernoulli(key, shape=(ir.shape[0], 1, 1, 1))
    return jnp.where(coin, ir, vis)
