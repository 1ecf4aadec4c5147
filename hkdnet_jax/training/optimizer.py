"""The one optimizer of a run: both phases, every group of parameters.

From the inside out: Adam for each group of parameters (`fusion`, `sr`, `adapter`;
`encoder`, `decoder`), which rests while the group is frozen; clipping by the norm over
all groups; the refusal of steps that are not finite; the step size of the phase.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from hkdnet_jax.training import schedules

# After so many steps in a row `apply_if_finite` would apply what is not finite; the
# loop stops long before (`config.max_bad_steps`).
_NEVER = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What makes updates of gradients, for the whole run.

    Attributes:
      transformation: its `update` takes the extra argument `run_step`, the int32 number
        of the step, skipped ones included, of which the phase is a function.
      rate: step size as a function of that number.
    """

    transformation: optax.GradientTransformationExtraArgs
    rate: optax.Schedule


def make_optimizer(
    config: ConfigDict, groups: Iterable[str], epoch_steps: int, total_steps: int
) -> Optimizer:
    """The optimizer of a run.

    Args:
      config: reads `optim`, the length of phase 1, `kind` and `init_freeze`.
      groups: the parameters' top-level names.
      epoch_steps: steps an epoch.
      total_steps: of the whole run.
    """
    adam = optax.scale_by_adam(b1=config.optim.b1, b2=config.optim.b2)
    second_phase = schedules.phase1_steps(config, epoch_steps)

    def of_group(group: str) -> optax.GradientTransformation:
        if group == "sr" and config.init_freeze:
            return optax.set_to_zero()
        first_step = second_phase if group in ("sr", "adapter") else 0
        # A frozen group's updates are 0, and its moments and count do not move, so its
        # first real step has the bias correction of a first step.
        return optax.conditionally_mask(
            adam,
            lambda _, *, run_step, **__: run_step >= first_step,
            forward_extra_args=True,
        )

    labels = {group: group for group in groups}
    transforms = {group: of_group(group) for group in labels}
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
        # Outside, so that it counts the steps that are skipped too.
        optax.scale_by_learning_rate(rate),
    )
    return Optimizer(transformation, rate)


def skipped(state: optax.OptState) -> optax.ApplyIfFiniteState:
    """The part of `make_optimizer`'s state that counts steps that were not finite."""
    return state[0]


def average_decay(config: ConfigDict, step: jax.Array) -> jax.Array:
    """Decay of the averaged parameters at a step, counted from 0, float32 scalar.

    Shorter at first than `optim.ema`, so that the random start is soon forgotten.
    `optax.ema` knows constant decays alone.
    """
    taken = step.astype(jnp.float32)
    return jnp.minimum(config.optim.ema, (1.0 + taken) / (10.0 + taken))
