"""The training state and its update, against optax and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from hkdnet_jax.training import state as training_state
from hkdnet_jax.training.optimizer import make_optimizer, skipped

RATE = 0.01


def _config(**optim):
    config = base.get_config()
    config.train.phase1_epochs = 0
    config.optim.lr = RATE
    config.optim.update(optim)
    return config


def _params(seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "fusion": {"conv": {"kernel": draw(3, 3, 2, 4), "bias": draw(4)}},
        "sr": {"conv": {"kernel": draw(40, 20), "scale": draw()}},
    }


def _assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def _assert_moved(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.all(np.asarray(x) != np.asarray(y))


def _optimizer(config, total_steps=100):
    """An epoch is a step."""
    return make_optimizer(config, _params(), epoch_steps=1, total_steps=total_steps)


def _create(config, params=None):
    return training_state.create(config, _optimizer(config), params or _params())


def _update(config):
    optimizer = _optimizer(config)

    @jax.jit
    def update(state, gradients, loss):
        return training_state.apply_gradients(config, optimizer, state, gradients, loss)

    return lambda state, gradients, loss=1.0: update(
        state, gradients, jnp.float32(loss)
    )


def _moments(state, group):
    """The Adam state of a group: count, first and second moments."""
    _, partition = skipped(state.opt_state).inner_state
    return partition.inner_states[group].inner_state.inner_state


def _numpy_adam(param, gradients, b1, b2):
    """Adam (Kingma and Ba 2015, algorithm 1) in float64."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        g = np.asarray(g, np.float64)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        corrected = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        param = param - RATE * corrected
    return param


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.5, 0.9)])
def test_is_adam(b1, b2):
    config = _config(b1=b1, b2=b2)
    params = _params()
    gradients = [_params(seed) for seed in range(1, 6)]
    state, update = _create(config, params), _update(config)
    reference = optax.adam(RATE, b1=b1, b2=b2)
    optax_params, optax_state = params, reference.init(params)
    for gradient in gradients:
        state, _ = update(state, gradient)
        change, optax_state = reference.update(gradient, optax_state)
        optax_params = optax.apply_updates(optax_params, change)
    for got, optaxs, start, *history in zip(
        *map(jax.tree.leaves, (state.params, optax_params, params, *gradients)),
        strict=True,
    ):
        np.testing.assert_allclose(got, optaxs, atol=1e-6)
        by_hand = _numpy_adam(np.asarray(start, np.float64), history, b1, b2)
        np.testing.assert_allclose(got, by_hand, atol=1e-5)
    assert state.step == 5
    assert state.bad_row == 0
    assert state.ema is None
    _assert_equal(state.best_params(), state.params)


def test_a_frozen_group_does_not_move_nor_do_its_moments():
    config = _config(ema=0.9)
    config.train.phase1_epochs = 40
    state, update = _create(config), _update(config)
    before = state
    for seed in range(1, 40):
        # Even with gradients for it.
        state, _ = update(state, _params(seed))
    _assert_equal(state.params["sr"], before.params["sr"])
    _assert_equal(_moments(state, "sr"), _moments(before, "sr"))
    assert _moments(state, "sr").count == 0
    _assert_moved(state.params["fusion"], before.params["fusion"])
    assert _moments(state, "fusion").count == 39


def test_the_average_of_a_group_without_gradients_does_not_drift():
    config = _config(ema=0.9)
    config.train.phase1_epochs = 40
    state, update = _create(config), _update(config)
    for seed in range(1, 40):
        state, _ = update(state, {"fusion": _params(seed)["fusion"]})
    _assert_equal(state.ema["sr"], _params()["sr"])


def test_a_part_that_is_kept_has_no_moments():
    config = _config()
    config.init_freeze = True
    state, update = _create(config), _update(config)
    for seed in range(1, 4):
        state, _ = update(state, _params(seed))
    _assert_equal(state.params["sr"], _params()["sr"])
    _assert_moved(state.params["fusion"], _params()["fusion"])
    inner = skipped(state.opt_state).inner_state[1].inner_states["sr"]
    assert not jax.tree.leaves(inner)


def test_the_first_step_of_a_group_is_an_adam_first_step():
    """Its bias correction must not think of the steps while it was frozen."""
    config = _config()
    config.train.phase1_epochs = 3
    state, update = _create(config), _update(config)
    for seed in (1, 2, 3):
        state, _ = update(state, {"fusion": _params(seed)["fusion"]})
    state, _ = update(state, _params(4))
    expected = jax.tree.map(
        lambda p, g: p - RATE * np.sign(g), _params()["sr"], _params(4)["sr"]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state.params["sr"],
        expected,
    )


def _spoiled(value):
    gradients = _params(7)
    kernel = gradients["sr"]["conv"]["kernel"]
    gradients["sr"]["conv"]["kernel"] = kernel.at[1, 1].set(value)
    return gradients


@pytest.mark.parametrize(
    ("gradients", "loss"),
    [
        (_params(7), np.nan),
        (_params(7), np.inf),
        (_spoiled(np.nan), 1.0),
        (_spoiled(-np.inf), 1.0),
        # Every number of it is finite, but the sum of their squares is not.
        (jax.tree.map(lambda x: 1e25 * jnp.sign(x), _params(7)), 1.0),
    ],
    ids=[
        "nan loss",
        "infinite loss",
        "nan gradient",
        "infinite gradient",
        "exploded gradient",
    ],
)
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_that_is_not_finite_changes_only_the_counters(
    gradients, loss, clip_norm
):
    config = _config(ema=0.9, clip_norm=clip_norm)
    state, update = _create(config), _update(config)
    before, _ = update(state, _params(1))
    after, scalars = update(before, gradients, loss)
    for part in ("params", "ema"):
        _assert_equal(getattr(after, part), getattr(before, part))
    for group in ("fusion", "sr"):
        _assert_equal(_moments(after, group), _moments(before, group))
    assert after.step == before.step + 1
    assert after.bad_row == scalars["bad_row"] == scalars["skipped"] == 1
    # ... and the next good step is what it would have been without.
    resumed, scalars = update(after, _params(2))
    direct, _ = update(before, _params(2))
    _assert_equal(resumed.params, direct.params)
    assert resumed.bad_row == scalars["bad_row"] == 0
    assert scalars["skipped"] == 1


def test_bad_steps_in_a_row_are_counted_at_every_step():
    config = _config()
    state, update = _create(config), _update(config)
    rows = []
    for loss in (np.nan, np.nan, 1.0, np.nan, np.nan, np.nan, 1.0, 1.0, np.nan):
        state, scalars = update(state, _params(1), loss)
        rows.append((int(scalars["bad_row"]), int(scalars["skipped"])))
    bad, total = zip(*rows, strict=True)
    assert bad == (1, 2, 0, 1, 2, 3, 0, 0, 1)
    assert total == (1, 2, 2, 3, 4, 5, 5, 5, 6)


class _ByHand:
    """Two phases of clipped Adam, a step size, skips and averages, in float64.

    Written from the papers' formulas (Kingma and Ba 2015, algorithm 1; Polyak and
    Juditsky 1992), not from optax.
    """

    def __init__(self, params, config, phase1, total):
        self.params = {k: self._leaves(tree) for k, tree in params.items()}
        self.average = {k: list(v) for k, v in self.params.items()}
        self.moments = {
            k: (0, [0.0] * len(v), [0.0] * len(v)) for k, v in self.params.items()
        }
        self.optim, self.phase1, self.total = config.optim, phase1, total

    @staticmethod
    def _leaves(tree):
        return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]

    def rate(self, step):
        """A half cosine over each phase, after a linear warm-up."""
        start, end = (
            (0, self.phase1) if step < self.phase1 else (self.phase1, self.total)
        )
        share = (step - start) / (end - start)
        warm = min(1.0, (step - start + 1) / self.optim.warmup_steps)
        return self.optim.lr * warm * 0.5 * (1 + np.cos(np.pi * share))

    def step(self, step, gradients, loss):
        if not np.isfinite(loss):
            return
        groups = ("fusion",) if step < self.phase1 else ("fusion", "sr")
        grads = {group: self._leaves(gradients[group]) for group in groups}
        norm = np.sqrt(sum((g**2).sum() for some in grads.values() for g in some))
        factor = min(1.0, self.optim.clip_norm / norm)
        for group in groups:
            count, first, second = self.moments[group]
            count += 1
            b1, b2 = self.optim.b1, self.optim.b2
            for i, g in enumerate(grads[group]):
                g = factor * g
                first[i] = b1 * first[i] + (1 - b1) * g
                second[i] = b2 * second[i] + (1 - b2) * g * g
                unbiased = first[i] / (1 - b1**count)
                scale = np.sqrt(second[i] / (1 - b2**count)) + 1e-8
                old = self.params[group][i]
                self.params[group][i] = old - self.rate(step) * unbiased / scale
            self.moments[group] = count, first, second
        decay = min(self.optim.ema, (1 + step) / (10 + step))
        for group, some in self.params.items():
            self.average[group] = [
                decay * a + (1 - decay) * p
                for a, p in zip(self.average[group], some, strict=True)
            ]


def test_fifty_steps_of_both_phases_are_those_of_the_formulas():
    """Clipped, warmed up, averaged, with a bad step in each phase."""
    phase1, total, bad = 20, 50, (7, 33)
    config = _config(
        lr=2e-3, schedule="cosine", warmup_steps=4, clip_norm=25.0, ema=0.9
    )
    config.train.phase1_epochs = phase1
    optimizer = _optimizer(config, total)
    expected = _ByHand(_params(), config, phase1, total)

    @jax.jit
    def update(state, gradients, loss):
        return training_state.apply_gradients(config, optimizer, state, gradients, loss)

    state, rates = training_state.create(config, optimizer, _params()), []
    for step in range(total):
        # In a phase 1 as the steps compute it: no gradients of what is frozen.
        gradients, loss = _params(step + 1), np.nan if step in bad else 1.0
        given = gradients if step >= phase1 else {"fusion": gradients["fusion"]}
        state, scalars = update(state, given, jnp.float32(loss))
        rates.append(float(scalars["lr"]))
        expected.step(step, gradients, loss)
    np.testing.assert_allclose(rates, [expected.rate(k) for k in range(total)], 1e-5)
    for group in ("fusion", "sr"):
        for got, want in (
            (state.params[group], expected.params[group]),
            (state.ema[group], expected.average[group]),
        ):
            for a, b in zip(jax.tree.leaves(got), want, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert scalars["skipped"] == len(bad)


def test_clipping_scales_the_whole_gradient():
    clipped, plain = _config(clip_norm=0.5), _config()
    gradients = _params(1)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients)]
    norm = np.sqrt(sum((leaf**2).sum() for leaf in leaves))
    assert norm > 0.5
    got, scalars = _update(clipped)(_create(clipped), gradients)
    np.testing.assert_allclose(scalars["grad_norm"], norm, rtol=1e-6)
    scaled = jax.tree.map(lambda g: g * np.float32(0.5 / norm), gradients)
    want, _ = _update(plain)(_create(plain), scaled)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_clipping_leaves_a_small_gradient_alone():
    clipped, plain = _config(clip_norm=1e3), _config()
    states = [
        _update(config)(_create(config), _params(1))[0] for config in (clipped, plain)
    ]
    _assert_equal(states[0].params, states[1].params)


def test_averaged_weights():
    """Decay min(0.6, (1 + t) / (10 + t)) at step t."""
    config = _config(ema=0.6)
    state, update = _create(config), _update(config)
    average = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(_params())]
    for t in range(20):
        state, _ = update(state, _params(t + 1))
        decay = min(0.6, (1 + t) / (10 + t))
        leaves = jax.tree.leaves(state.params)
        average = [
            decay * a + (1 - decay) * np.asarray(p)
            for a, p in zip(average, leaves, strict=True)
        ]
    assert decay == 0.6
    for got, want in zip(jax.tree.leaves(state.ema), average, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    _assert_equal(state.best_params(), state.ema)


def test_a_state_can_be_donated():
    """Averaged weights that share the parameters' buffers could not."""
    config = _config(ema=0.6)
    state = _create(config)
    step = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    assert step(state).step == 1
