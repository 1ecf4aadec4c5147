"""The phase and the step size as functions of the step number."""

import math

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def steps_per_epoch(config: ConfigDict, samples: int) -> int:
    """Number of full batches in an epoch of `samples` crops, at least one."""
    return max(1, samples // config.train.batch_size)


def phase1_steps(config: ConfigDict, epoch_steps: int) -> int:
    """Number of steps of phase 1 (Eq. 22), which comes first in a student's run."""
    if config.kind != "student":
        return 0
    return config.train.phase1_epochs * epoch_steps


def phase_at(config: ConfigDict, step: int, epoch_steps: int) -> int:
    """Phase of a step: 1 (fusion part alone, Eq. 22) or 2 (Eq. 23).

    The other runs have only phase 1.
    """
    if config.kind != "student":
        return 1
    return 1 if step < phase1_steps(config, epoch_steps) else 2


def learning_rate(
    config: ConfigDict, epoch_steps: int, total_steps: int
) -> optax.Schedule:
    """The step size as a function of the step, joined from one schedule per phase.

    Within a phase it is constant, or follows a half cosine that reaches 0 at the end of
    the phase, or is halved at each milestone (a share of the phase). This is multiplied
    by a linear warm-up, with `lr / warmup_steps` at the first step of the phase.

    Args:
      config: the run's; `optim`, `train.phase1_epochs` and `kind` are read.
      epoch_steps: number of steps per epoch.
      total_steps: number of steps in the run, both phases together.

    Returns:
      A function from the int32 step, counted from 0, to a float32 scalar.
    """
    first = min(phase1_steps(config, epoch_steps), total_steps)
    optim = config.optim
    phases = [(first, optim.phase1_lr or optim.lr), (total_steps - first, optim.lr)]
    taken = [_phase(config, length, lr) for length, lr in phases if length]
    boundaries = [first] if len(taken) == 2 else []
    return optax.join_schedules(taken, boundaries)


def _phase(config: ConfigDict, length: int, lr: float) -> optax.Schedule:
    """The step size within a phase of `length` steps, `lr` at its height."""
    optim = config.optim
    match optim.schedule:
        case "cosine":
            decay = optax.cosine_decay_schedule(lr, length)
        case "step":
            halvings: dict[int, float] = {}
            for share in optim.milestones:
                at = math.ceil(share * length)
                halvings[at] = halvings.get(at, 1.0) * 0.5
            decay = optax.piecewise_constant_schedule(lr, halvings)
        case _:
            decay = optax.constant_schedule(lr)
    if not optim.warmup_steps:
        return decay

    def warmed_up(step):
        return decay(step) * jnp.minimum(1.0, (step + 1.0) / optim.warmup_steps)

    return warmed_up
