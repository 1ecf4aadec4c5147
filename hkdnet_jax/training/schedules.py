"""What depends on the step number: the learning rate and the phase."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

SCHEDULES = ("constant", "cosine", "step")


def steps_per_epoch(config: ConfigDict, samples: int) -> int:
    """Whole batches in an epoch of `samples` crops, at least one."""
    return max(1, samples // config.train.batch_size)


def learning_rate(config: ConfigDict, step: jax.Array, total_steps: int) -> jax.Array:
    """Step size at a step, float32 scalar.

    A linear warm-up, `lr / warmup_steps` at the first step, multiplies a constant, a
    half cosine that reaches 0 at `total_steps`, or a constant halved at each milestone
    (a share of the run).

    Args:
      config: reads `optim.lr`, `.schedule`, `.milestones`, `.warmup_steps`.
      step: int32 scalar, from 0.
      total_steps: of the whole run, both phases.
    """
    optim = config.optim
    step = step.astype(jnp.float32)
    share = step / total_steps
    factor = jnp.float32(1.0)
    if optim.schedule == "cosine":
        factor = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(share, 1.0)))
    elif optim.schedule == "step":
        for milestone in optim.milestones:
            factor = factor * jnp.where(share >= milestone, 0.5, 1.0)
    if optim.warmup_steps:
        factor = factor * jnp.minimum(1.0, (step + 1.0) / optim.warmup_steps)
    return optim.lr * factor


def phase_at(config: ConfigDict, step: int, epoch_steps: int) -> int:
    """Phase of a student's step: 1 (fusion part alone, Eq. 22) or 2 (Eq. 23)."""
    return 1 if step < config.train.phase1_epochs * epoch_steps else 2
