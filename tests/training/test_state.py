"""The training state and its update, against optax and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from hkdnet_jax.training import state as training_state

RATE = 0.01


def _config(**optim):
    config = base.get_config()
    config.optim.update(optim)
    config.max_bad_steps = 3
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


def _update(config):
    @jax.jit
    def update(state, gradients, loss):
        return training_state.apply_gradients(
            config, state, gradients, loss, jnp.float32(RATE)
        )

    return lambda state, gradients, loss=1.0: update(
        state, gradients, jnp.float32(loss)
    )


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
    state, update = training_state.create(config, params), _update(config)
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
    assert state.skipped == state.bad_row == 0
    assert state.ema is None
    _assert_equal(state.best_params(), state.params)


def test_a_frozen_group_does_not_move_nor_do_its_moments():
    config = _config(ema=0.9)
    state, update = training_state.create(config, _params()), _update(config)
    state, _ = update(state, _params(1))
    before = state
    for seed in range(2, 40):
        state, _ = update(state, {"fusion": _params(seed)["fusion"]})
    _assert_equal(state.params["sr"], before.params["sr"])
    _assert_equal(state.opt_state["sr"], before.opt_state["sr"])
    _assert_moved(state.params["fusion"], before.params["fusion"])
    _assert_moved(state.opt_state["fusion"], before.opt_state["fusion"])


def test_the_average_of_a_group_frozen_from_the_start_does_not_drift():
    config = _config(ema=0.9)
    state, update = training_state.create(config, _params()), _update(config)
    for seed in range(1, 40):
        state, _ = update(state, {"fusion": _params(seed)["fusion"]})
    _assert_equal(state.ema["sr"], _params()["sr"])


def test_the_first_step_of_a_group_is_an_adam_first_step():
    """Its bias correction must not think of the steps while it was frozen."""
    config = _config()
    state, update = training_state.create(config, _params()), _update(config)
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
    ],
    ids=["nan loss", "infinite loss", "nan gradient", "infinite gradient"],
)
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_that_is_not_finite_changes_only_the_counters(
    gradients, loss, clip_norm
):
    config = _config(ema=0.9, clip_norm=clip_norm)
    state, update = training_state.create(config, _params()), _update(config)
    before, _ = update(state, _params(1))
    after, scalars = update(before, gradients, loss)
    for part in ("params", "opt_state", "ema"):
        _assert_equal(getattr(after, part), getattr(before, part))
    assert after.step == before.step + 1
    assert after.skipped == after.bad_row == scalars["skipped"] == 1
    # ... and the next good step is what it would have been without.
    resumed, _ = update(after, _params(2))
    direct, _ = update(before, _params(2))
    _assert_equal(resumed.params, direct.params)
    assert resumed.bad_row == 0
    assert resumed.skipped == 1


def test_bad_steps_in_a_row_latch_at_the_limit():
    config = _config()
    state, update = training_state.create(config, _params()), _update(config)
    rows = []
    for loss in (np.nan, np.nan, 1.0, np.nan, np.nan, np.nan, 1.0, 1.0, np.nan):
        state, _ = update(state, _params(1), loss)
        rows.append(int(state.bad_row))
    # The host looks only now and then: good steps later must not hide the row of 3.
    assert rows == [1, 2, 0, 1, 2, 3, 3, 3, 3]
    assert state.skipped == 6


def test_clipping_scales_the_whole_gradient():
    clipped, plain = _config(clip_norm=0.5), _config()
    gradients = _params(1)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients)]
    norm = np.sqrt(sum((leaf**2).sum() for leaf in leaves))
    assert norm > 0.5
    got, scalars = _update(clipped)(
        training_state.create(clipped, _params()), gradients
    )
    np.testing.assert_allclose(scalars["grad_norm"], norm, rtol=1e-6)
    scaled = jax.tree.map(lambda g: g * np.float32(0.5 / norm), gradients)
    want, _ = _update(plain)(training_state.create(plain, _params()), scaled)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_clipping_leaves_a_small_gradient_alone():
    clipped, plain = _config(clip_norm=1e3), _config()
    states = [
        _update(config)(training_state.create(config, _params()), _params(1))[0]
        for config in (clipped, plain)
    ]
    _assert_equal(states[0].params, states[1].params)


def test_averaged_weights():
    """Decay min(0.6, (1 + t) / (10 + t)) at step t."""
    config = _config(ema=0.6)
    state, update = training_state.create(config, _params()), _update(config)
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
    state = training_state.create(config, _params())
    step = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    assert step(state).step == 1
