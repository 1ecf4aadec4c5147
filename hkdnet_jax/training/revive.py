"""Gives dead units of a trained teacher a new start, without changing its pictures."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.models.teacher import Teacher

# A unit that fires at fewer of the pixels counts as dead.
_DEAD_BELOW = 0.02
# Mean of a revived unit's input, in standard deviations: about 70 % of the pixels fire.
_MEAN = 0.5


def revive_units(
    teacher: Teacher, params: Mapping[str, Any], key: jax.Array, images: jax.Array
) -> dict[str, Any]:
    """Draws the dead units of a teacher's decoder anew.

    A unit that fires nowhere has no gradient, so no training brings it back.  Each gets
    a random kernel and a bias with which its input has the deviation of the layer's
    other units, and a mean above 0; the next layer's weights on it become 0.  So the
    picture stays the same, up to the pixels at which the unit fired, and the next steps
    can make use of the unit (Sokar et al., "The dormant neuron phenomenon in deep
    reinforcement learning", ICML 2023).

    Args:
      teacher: the network.
      params: its parameters, float32.
      key: random key of the new kernels.
      images: float32 [N, H, W, 1] in [0, 1], on which units are judged.

    Returns:
      Parameters of the same structure.  The encoder's are the same.
    """
    decoder = {name: dict(layer) for name, layer in params["decoder"].items()}

    def choose(units: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
        """`new` for the units that `units` marks along the last axis, else `old`."""
        return jnp.where(jnp.expand_dims(units, range(new.ndim - 1)), new, old)

    def inputs_of(layer: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean and deviation of each unit's input, and the share of pixels it fires."""
        _, out = teacher.apply(
            {"params": {**params, "decoder": decoder}}, images, images
        )
        linear = out[f"decoder{layer}_linear"]
        over = (0, 1, 2)
        return linear.mean(over), linear.std(over), (linear > 0).mean(over)

    for layer in (1, 2, 3):
        conv, reader = decoder[f"conv{layer}"], decoder[f"conv{layer + 1}"]
        _, deviation, fires = inputs_of(layer)
        dead = fires < _DEAD_BELOW
        # A layer without a live unit has no other scale to go by.
        live_deviation = jnp.where(dead.all(), 1.0, jnp.mean(deviation, where=~dead))
        drawn = nn.initializers.he_normal()(
            jax.random.fold_in(key, layer), conv["kernel"].shape
        )
        conv["kernel"] = choose(dead, drawn, conv["kernel"])
        conv["bias"] = choose(dead, jnp.zeros_like(conv["bias"]), conv["bias"])
        mean, deviation, _ = inputs_of(layer)
        factor = live_deviation / deviation
        scaled = conv["kernel"] * jnp.expand_dims(factor, (0, 1, 2))
        conv["kernel"] = choose(dead, scaled, conv["kernel"])
        bias = _MEAN * live_deviation - factor * mean
        conv["bias"] = choose(dead, bias, conv["bias"])
        read = jnp.expand_dims(~dead, (0, 1, 3))
        reader["kernel"] = reader["kernel"] * read
    return {**params, "decoder": decoder}
