"""Step size and phase as functions of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from hkdnet_jax.training import schedules
from hkdnet_jax.training.config_groups import SCHEDULES


def _config(phase1_epochs=0, **optim):
    config = base.get_config()
    config.train.phase1_epochs = phase1_epochs
    config.optim.update(optim)
    return config


def _rates(config, steps, total, epoch_steps=1):
    rate = schedules.learning_rate(config, epoch_steps, total)
    return np.array([jax.jit(rate)(jnp.int32(step)) for step in steps])


def test_the_papers_rate_is_constant():
    config = base.get_config()
    rates = _rates(config, [0, 1, 11_219, 11_220, 46_749], 46_750, 187)
    np.testing.assert_array_equal(rates, np.float32(1e-4))


def test_cosine_is_optax_s_and_ends_at_zero():
    config = _config(schedule="cosine", lr=3e-3)
    steps = [0, 1, 137, 500, 999, 1000, 1200]
    reference = [optax.cosine_decay_schedule(3e-3, 1000)(step) for step in steps]
    np.testing.assert_allclose(_rates(config, steps, 1000), reference, atol=1e-9)


def test_step_halves_at_each_milestone():
    config = _config(schedule="step", lr=8.0, milestones=(0.5, 0.75))
    rates = _rates(config, [0, 49, 50, 74, 75, 99], 100)
    np.testing.assert_array_equal(rates, [8, 8, 4, 4, 2, 2])
    odd = _rates(config, range(5), 5)  # 2.5 and 3.75 steps: from the next one on
    np.testing.assert_array_equal(odd, [8, 8, 8, 4, 2])


def test_a_milestone_given_twice_quarters():
    config = _config(schedule="step", lr=8.0, milestones=(0.5, 0.5))
    np.testing.assert_array_equal(_rates(config, [0, 1, 2, 3], 4), [8, 8, 2, 2])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_multiplies_any_schedule(schedule):
    plain = _rates(_config(schedule=schedule, lr=1.0), range(12), 12)
    warm = _rates(_config(schedule=schedule, lr=1.0, warmup_steps=4), range(12), 12)
    ramp = np.minimum(1.0, np.arange(1, 13) / 4)
    np.testing.assert_allclose(warm, plain * ramp, rtol=1e-6)
    assert warm[0] > 0, "a first step of size 0 would be lost"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_phase_has_a_schedule_of_its_own(schedule):
    optim = {"schedule": schedule, "lr": 1.0, "warmup_steps": 2}
    whole = _rates(_config(phase1_epochs=3, **optim), range(30), 30, epoch_steps=4)
    first = _rates(_config(**optim), range(12), 12)
    second = _rates(_config(**optim), range(18), 18)
    np.testing.assert_array_equal(whole, np.concatenate([first, second]))


def test_a_teachers_run_is_one_phase():
    config = _config(phase1_epochs=3, schedule="cosine", lr=1.0)
    config.kind = "teacher"
    expected = _rates(_config(schedule="cosine", lr=1.0), range(8), 8)
    np.testing.assert_array_equal(_rates(config, range(8), 8, 2), expected)
    assert [schedules.phase_at(config, step, 2) for step in (0, 7)] == [1, 1]


def test_the_phase_changes_at_the_end_of_an_epoch():
    config = base.get_config()
    config.train.phase1_epochs = 60
    assert [schedules.phase_at(config, s, 187) for s in (0, 60 * 187 - 1)] == [1, 1]
    assert [schedules.phase_at(config, s, 187) for s in (60 * 187, 10**6)] == [2, 2]
    config.train.phase1_epochs = 0
    assert schedules.phase_at(config, 0, 187) == 2


@pytest.mark.parametrize(
    ("samples", "batch", "steps"), [(12000, 64, 187), (64, 64, 1), (5, 64, 1)]
)
def test_an_epoch_is_whole_batches_and_at_least_one(samples, batch, steps):
    config = base.get_config()
    config.train.batch_size = batch
    assert schedules.steps_per_epoch(config, samples) == steps
