"""What depends on the step number: the phase and the step size."""

import math

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def steps_per_epoch(config: ConfigDict, samples: int) -> int:
    """Whole batches in an epoch of `samples` crops, at least one."""
    return max(1, samples // config.train.batch_size)


def phase1_steps(config: ConfigDict, epoch_steps: int) -> int:
    """Steps of phase 1 (Eq. 22), which comes first; 0 for a teacher's run."""
    if config.kind == "teacher":
        return 0
    return config.train.phase1_epochs * epoch_steps


def phase_at(config: ConfigDict, step: int, epoch_steps: int) -> int:
    """Phase of a step: 1 (fusion part alone, Eq. 22) or 2 (Eq. 23).

    A teacher's run is all one phase, 1.
    """
    if config.kind == "teacher":
        return 1
    return 1 if step < phase1_steps(config, epoch_steps) else 2


def learning_rate(
    config: ConfigDict, epoch_steps: int, total_steps: int
) -> optax.Schedule:
    """The step size as a function of the step: one schedule a phase, joined.

    A phase begins with a linear warm-up, `lr / warmup_steps` at its first step, which
    multiplies a constant, a half cosine that reaches 0 at the phase's end, or a
    constant that is halved at each milestone (a share of the phase).

    Args:
      config: reads `optim`, and the length of phase 1.
      epoch_steps: steps an epoch.
      total_steps: of the whole run, both phases.

    Returns:
      (int32 step, from 0) -> float32 scalar.
    """
    first = min(phase1_steps(config, epoch_steps), total_steps)
    lengths = [length for length in (first, total_steps - first) if length]
    boundaries = [first] if len(lengths) == 2 else []
    return optax.join_schedules([_phase(config, n) for n in lengths], boundaries)


def _phase(config: ConfigDict, length: int) -> optax.Schedule:
    """The step size within a phase of `length` steps."""
    optim = config.optim
    match optim.schedule:
        case "cosine":
            decay = optax.cosine_decay_schedule(optim.lr, length)
        case "step":
            halvings: dict[int, float] = {}
            for share in optim.milestones:
                at = math.ceil(share * length)
                halvings[at] = halvings.get(at, 1.0) * 0.5
            decay = optax.piecewise_constant_schedule(optim.lr, halvings)
        case _:
            decay = optax.constant_schedule(optim.lr)
    if not optim.warmup_steps:
        return decay

    def warmed_up(step):
        return decay(step) * jnp.minimum(1.0, (step + 1.0) / optim.warmup_steps)

    return warmed_up
