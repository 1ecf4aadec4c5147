"""The training state and the one function that updates it."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from hkdnet_jax.training.optimizer import Optimizer, average_decay, skipped

Params = Mapping[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything a run needs to continue, except the data iterator.

    Attributes:
      step: int32, number of steps taken, including skipped ones.
      params: the network's parameters; the top level names the groups that are
        trained or frozen together (`fusion`, `sr`, `adapter`; `encoder`, `decoder`).
      opt_state: state of the optimizer that `optimizer.make_optimizer` makes.
      ema: averaged parameters, or None if averaging is off.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None

    def best_params(self) -> Params:
        """The averaged parameters if averaging is on, otherwise the current ones."""
        return self.params if self.ema is None else self.ema

    @property
    def bad_row(self) -> jax.Array:
        """int32 number of steps in a row, up to the last, that were not finite."""
        return skipped(self.opt_state).notfinite_count


def create(config: ConfigDict, optimizer: Optimizer, params: Params) -> TrainState:
    """The state at step 0 with the given parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.transformation.init(params),
        # A copy: the state is donated, and a buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, params) if config.optim.ema else None,
    )


def apply_gradients(
    config: ConfigDict,
    optimizer: Optimizer,
    state: TrainState,
    gradients: Params,
    loss: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step of the optimizer.

    If the loss or the norm of the gradient is not finite, only the counters change.

    Args:
      config: the run's; `optim` is read.
      optimizer: see `optimizer.make_optimizer`.
      state: the state before the step.
      gradients: gradients of some or all of the top-level groups of `state.params`;
        those of the other groups count as 0.
      loss: scalar that the gradients belong to.

    Returns:
      The state after the step, and the scalars `lr`, `grad_norm` (before clipping),
      `skipped` (number of steps so far that were not finite) and `bad_row` (number of
      such steps in a row, up to this one).
    """
    norm = optax.tree.norm(gradients)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    everywhere = {
        group: gradients.get(group, jax.tree.map(jnp.zeros_like, tree))
        for group, tree in state.params.items()
    }
    everywhere = _marked(everywhere, good)
    updates, opt_state = optimizer.transformation.update(
        everywhere, state.opt_state, state.params, run_step=state.step
    )
    params = dict(state.params) | {
        group: optax.apply_updates(state.params[group], updates[group])
        for group in gradients
    }
    ema = state.ema
    if ema is not None:
        share = jnp.where(good, 1.0 - average_decay(config, state.step), 0.0)
        # Groups that the step does not train need no update: their average is equal.
        ema = dict(ema) | {
            group: optax.incremental_update(params[group], ema[group], share)
            for group in gradients
        }
    state = TrainState(state.step + 1, params, opt_state, ema)
    counted = skipped(opt_state)
    return state, {
        "lr": optimizer.rate(state.step - 1),
        "grad_norm": norm,
        "skipped": counted.total_notfinite,
        "bad_row": counted.notfinite_count,
    }


def _marked(gradients: Params, good: jax.Array) -> Params:
    """The gradients, of which one array is NaN unless they are good.

    The optimizer sees only the gradients, so a bad loss must show up in them.  The
    smallest array shows it as well as all of them would, and needs no second copy.
    """
    leaves, tree = jax.tree.flatten(gradients)
    smallest = min(range(len(leaves)), key=lambda index: leaves[index].size)
    leaves[smallest] = jnp.where(good, leaves[smallest], jnp.nan)
    return jax.tree.unflatten(tree, leaves)
