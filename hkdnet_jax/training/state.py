"""The training state and the one function that updates it."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Params = Mapping[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything a run needs to go on, but for the data iterator.

    Attributes:
      step: int32, steps taken, skipped ones included.
      params: the network's parameters; the top level names the groups that are
        trained or frozen together (`fusion`, `sr`, `adapter`; `encoder`, `decoder`).
      opt_state: for each group its Adam moments and count.  A frozen group's do not
        move, so its first real step has the bias correction of a first step.
      ema: averaged params, or None when averaging is off.
      skipped: int32, steps whose loss or gradient was not finite.
      bad_row: int32, length of the current run of such steps; once it has reached
        the limit it stays, so that the host sees it at the next look.
    """

    step: jax.Array
    params: Params
    opt_state: dict[str, optax.OptState]
    ema: Params | None
    skipped: jax.Array
    bad_row: jax.Array

    def best_params(self) -> Params:
        """The averaged parameters where there are some, else the current ones."""
        return self.params if self.ema is None else self.ema


def _adam(config: ConfigDict) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.optim.b1, b2=config.optim.b2)


def create(config: ConfigDict, params: Params) -> TrainState:
    """A state at step 0 around fresh parameters."""
    adam = _adam(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state={group: adam.init(tree) for group, tree in params.items()},
        # A copy: the state is donated, and a buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, params) if config.optim.ema else None,
        skipped=jnp.zeros((), jnp.int32),
        bad_row=jnp.zeros((), jnp.int32),
    )


def apply_gradients(
    config: ConfigDict,
    state: TrainState,
    gradients: Params,
    loss: jax.Array,
    rate: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One Adam step for the groups in `gradients`; the other groups do not move.

    When the loss or the gradient's norm is not finite nothing moves but the counters.

    Args:
      config: reads `optim` and `max_bad_steps`.
      state: before the step.
      gradients: some of the top-level groups of `state.params`.
      loss: scalar the gradients belong to.
      rate: learning rate.

    Returns:
      The state after the step, and `grad_norm` (before clipping) and `skipped`.
    """
    norm = optax.tree.norm(gradients)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    if config.optim.clip_norm:
        factor = jnp.minimum(1.0, config.optim.clip_norm / jnp.maximum(norm, 1e-12))
        gradients = jax.tree.map(lambda g: g * factor, gradients)

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

    adam = _adam(config)
    params, opt_state = dict(state.params), dict(state.opt_state)
    for group, gradient in gradients.items():
        update, moments = adam.update(gradient, opt_state[group])
        moved = jax.tree.map(lambda p, u: p - rate * u, params[group], update)
        params[group] = keep(moved, params[group])
        opt_state[group] = keep(moments, opt_state[group])

    ema = state.ema
    if ema is not None:
        # Shorter memory at first, so that the random start is soon forgotten.
        taken = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.optim.ema, (1.0 + taken) / (10.0 + taken))
        # In this form the average of a frozen group stays exactly as it is.
        average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), ema, params)
        ema = keep(average, ema)

    stop = state.bad_row >= config.max_bad_steps
    state = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        skipped=state.skipped + jnp.where(good, 0, 1),
        bad_row=jnp.where(stop, state.bad_row, jnp.where(good, 0, state.bad_row + 1)),
    )
    return state, {"grad_norm": norm, "skipped": state.skipped}
