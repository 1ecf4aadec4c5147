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
    """Everything a run needs to go on, but for the data iterator.

    Attributes:
      step: int32, steps taken, skipped ones included.
      params: the network's parameters; the top level names the groups that are
        trained or frozen together (`fusion`, `sr`, `adapter`; `encoder`, `decoder`).
      opt_state: of `optimizer.make_optimizer`.
      ema: averaged params, or None when averaging is off.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None

    def best_params(self) -> Params:
        """The averaged parameters where there are some, else the current ones."""
        return self.params if self.ema is None else self.ema

    @property
    def bad_row(self) -> jax.Array:
        """int32, how many steps just before had a loss or gradient not finite."""
        return skipped(self.opt_state).notfinite_count


def create(config: ConfigDict, optimizer: Optimizer, params: Params) -> TrainState:
    """A state at step 0 around fresh parameters."""
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
    """One step of the optimizer.

    When the loss or the gradient's norm is not finite nothing moves but the counters.

    Args:
      config: reads `optim.ema`.
      optimizer: see `optimizer.make_optimizer`.
      state: before the step.
      gradients: of some or all of the top-level groups of `state.params`; the others
        count as 0.
      loss: scalar that the gradients belong to.

    Returns:
      The state after the step, and `lr`, `grad_norm` (before clipping), `skipped`
      (steps that were not finite so far) and `bad_row` (those that lie just before).
    """
    norm = optax.tree.norm(gradients)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    # The optimizer looks at the gradients alone.
    gradients = jax.tree.map(lambda g: jnp.where(good, g, jnp.nan), gradients)
    everywhere = {
        group: gradients.get(group, jax.tree.map(jnp.zeros_like, tree))
        for group, tree in state.params.items()
    }
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
        # What the step does not train has an average already: itself.
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
