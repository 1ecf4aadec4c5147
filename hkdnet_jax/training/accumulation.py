"""Gradients of a batch, part by part, so that only one part's features are held."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hkdnet_jax.training.state import Params

Scalars = dict[str, jax.Array]
# (params, batch) -> (loss, terms); both are means over the batch.
Loss = Callable[[Params, Any], tuple[jax.Array, Scalars]]


def gradients(
    loss: Loss, params: Params, batch: Any, parts: int
) -> tuple[tuple[jax.Array, Scalars], Params]:
    """Computes the loss of a batch and its gradients.

    Part i of P holds the samples i, i + P, i + 2 P, ..., so that devices that share the
    batch share each part too, and nothing moves between them.  The result is that of
    the whole batch up to the order of float32 sums.

    Args:
      loss: a mean over the samples.
      params: the parameters that it is differentiated for.
      batch: a pytree of arrays [N, ...].
      parts: number of parts, a divisor of N.

    Returns:
      The loss with its terms, and the gradients.
    """
    function = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return function(params, batch)

    def split(array: jax.Array) -> jax.Array:
        split_up = array.reshape(-1, parts, *array.shape[1:])
        return jnp.swapaxes(split_up, 0, 1)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(params, part)), None

    batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda array: array[0], batches)
    shapes = jax.eval_shape(function, params, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = lax.scan(add, zeros, batches)
    return jax.tree.map(lambda leaf: leaf / parts, total)
