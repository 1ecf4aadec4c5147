"""The one optimizer of a run, for both phases and every group of parameters.

From the inside out, it consists of Adam for each group of parameters (`fusion`, `sr`,
`adapter`; `encoder`, `decoder`), which pauses while the group is frozen; clipping by
the norm over all groups; skipping of steps that are not finite; and the step size of
the phase.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from hkdnet_jax.training import schedules

# After this many steps in a row `apply_if_finite` would apply updates that are not
# finite; the loop stops long before that (`config.max_bad_steps`).
_NEVER = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Turns gradients into updates, throughout the run.

    Attributes:
      transformation: its `update` takes the extra argument `run_step`, the int32 number
        of the step including skipped ones, which determines the phase.
      rate: step size as a function of that number.
    """

    transformation: optax.GradientTransformationExtraArgs
    rate: optax.Schedule


def make_optimizer(
    config: ConfigDict, groups: Iterable[str], epoch_steps: int, total_steps: int
) -> Optimizer:
    """The optimizer of a run.

    Args:
      config: the run's; `optim`, `train.phase1_epochs`, `kind` and `init_freeze` are
        read.
      groups: top-level names of the parameters.
      epoch_steps: number of steps per epoch.
      total_steps: number of steps in the run.
    """
    adam = optax.scale_by_adam(b1=config.optim.b1, b2=config.optim.b2)
    second_phase = schedules.phase1_steps(config, epoch_steps)

    def transform(group: str) -> optax.GradientTransformation:
        if group == "sr" and config.init_freeze:
            return optax.set_to_zero()
        first_step = second_phase if group in ("sr", "adapter") else 0
        # A frozen group's updates are 0, and its moments and count do not change, so
        # its first real step has the bias correction of a first step.
        return optax.conditionally_mask(
            adam,
            lambda _, *, run_step, **__: run_step >= first_step,
            forward_extra_args=True,
        )

    labels = {group: group for group in groups}
    transforms = {group: transform(group) for group in labels}
    clip = config.optim.clip_norm
    rate = schedules.learning_rate(config, epoch_steps, total_steps)
    transformation = optax.chain(
        optax.apply_if_finite(
            optax.chain(
                optax.clip_by_global_norm(clip) if clip else optax.identity(),
                optax.partition(transforms, labels),
            ),
            max_consecutive_errors=_NEVER,
        ),
        # Outside `apply_if_finite`, so that it counts skipped steps too.
        optax.scale_by_learning_rate(rate),
    )
    return Optimizer(transformation, rate)


def skipped(state: optax.OptState) -> optax.ApplyIfFiniteState:
    """The part of `make_optimizer`'s state that counts steps that were not finite."""
    return state[0]


def average_decay(config: ConfigDict, step: jax.Array) -> jax.Array:
    """Decay of the averaged parameters at a step, counted from 0; a float32 scalar.

    At first it is lower than `optim.ema`, so that the average soon forgets the random
    start. `optax.ema` supports only a constant decay.
    """
    taken = step.astype(jnp.float32)
    return jnp.minimum(config.optim.ema, (1.0 + taken) / (10.0 + taken))
