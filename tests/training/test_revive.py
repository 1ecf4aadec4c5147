"""Dead units of a teacher that start anew."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_fixtures import random_params, teacher_config

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.training import networks, run
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.revive import revive_units

revive = jax.jit(revive_units, static_argnums=0)  # as a run does
TEACHER = Teacher(0.3, 1.0)
DEAD = {"conv1": [0, 5, 63], "conv2": [1, 2], "conv3": [7]}


@pytest.fixture(scope="module")
def images():
    levels = jax.random.uniform(jax.random.key(3), (4, 6, 6, 1))
    return jax.image.resize(levels, (4, 24, 24, 1), "linear")


@functools.cache
def initial():
    return jax.jit(lambda: networks.init_teacher(teacher_config()))()


def with_dead_units(units):
    """Parameters whose given decoder units get an input far below 0."""
    params = jax.tree.map(np.array, initial())
    for name, channels in units.items():
        params["decoder"][name]["bias"][channels] = -100.0
    return params


@jax.jit
def forward(params, images):
    return TEACHER.apply({"params": params}, images, images)


def firing(out, layer):
    return np.asarray(out[f"decoder{layer}"] > 0).mean(axis=(0, 1, 2))


def test_dead_units_fire_and_the_picture_stays(images):
    params = with_dead_units(DEAD)
    got = revive(TEACHER, params, jax.random.key(0), images)
    image, out = forward(params, images)
    new_image, new_out = forward(got, images)
    np.testing.assert_allclose(new_image, image, atol=1e-5)
    for layer, (name, dead) in enumerate(DEAD.items(), start=1):
        live = np.delete(np.arange(len(firing(out, layer))), dead)
        assert not firing(out, layer)[dead].any()
        assert firing(new_out, layer)[dead].min() > 0.4
        # The mean of 0.5 deviations, and the deviation of the live units.
        linear, before = (
            np.asarray(x[f"decoder{layer}_linear"]) for x in (new_out, out)
        )
        deviation = before.std(axis=(0, 1, 2))[live].mean()
        revived = linear[..., dead]
        np.testing.assert_allclose(revived.std((0, 1, 2)), deviation, rtol=1e-3)
        np.testing.assert_allclose(revived.mean((0, 1, 2)), deviation / 2, rtol=1e-3)
        for part in ("kernel", "bias"):
            old, new = params["decoder"][name][part], got["decoder"][name][part]
            if layer == 1:  # nothing that these read has changed
                np.testing.assert_array_equal(new[..., live], old[..., live])
            assert np.all(np.any(new[..., dead] != old[..., dead], axis=0))
    jax.tree.map(np.testing.assert_array_equal, got["encoder"], params["encoder"])


def test_revived_units_learn_at_once(images):
    got = revive(TEACHER, with_dead_units(DEAD), jax.random.key(0), images)

    def error(params):
        return jnp.square(forward(params, images)[0] - images).mean()

    gradient = jax.grad(error)(got)
    for layer, dead in enumerate(DEAD.values(), start=1):
        reader = gradient["decoder"][f"conv{layer + 1}"]["kernel"]
        assert np.all(np.any(np.asarray(reader[:, :, dead]) != 0, axis=(0, 1, 3)))


def test_live_units_are_left_alone(images):
    params = with_dead_units({})
    got = revive(TEACHER, params, jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, got, params)


def test_a_layer_without_any_live_unit(images):
    params = with_dead_units({"conv2": range(32)})
    got = revive(TEACHER, params, jax.random.key(0), images)
    assert firing(forward(got, images)[1], 2).min() > 0.4


def test_a_run_starts_without_dead_units(images, tmp_path):
    config = teacher_config()
    params = random_params(config, seed=4)
    params["decoder"]["conv3"]["bias"][:] = -100.0
    file_format.save_model(tmp_path, networks.describe_network(config), params)
    config.init_from = str(tmp_path)
    kept = jax.device_get(run.Run(config).init_state().params)
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    config.init_revive = True
    state = run.Run(config).init_state()
    assert firing(forward(state.params, images)[1], 3).min() > 0.1
    jax.tree.map(
        np.testing.assert_array_equal, state.params["encoder"], params["encoder"]
    )


def test_options_that_do_not_fit_the_run(tiny_teacher):
    config = teacher_config()
    config.init_revive = True
    with pytest.raises(UserError, match=r"init_revive.*config\.init_from"):
        check_config(config)
    config.init_from = str(tiny_teacher)
    check_config(config)
    config.init_revive, config.init_freeze = False, True
    with pytest.raises(UserError, match=r"init_freeze.*student's run"):
        check_config(config)
