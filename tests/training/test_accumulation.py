"""Gradients of a batch in parts, against those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_fixtures import (
    create_state,
    optimizer_of,
    random_batch,
    random_params,
    student_config,
    teacher_config,
)

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training import steps
from hkdnet_jax.training.accumulation import gradients
from hkdnet_jax.training.config_check import check_config, check_values


def _loss(params, batch):
    """Mean |x w - y|, which has the samples' mean as its only sum."""
    error = jnp.abs(batch["x"] @ params["w"] - batch["y"])
    return error.mean(), {"largest": error.max(axis=-1).mean()}


def _arrays(samples=12):
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(samples, 5)), "y": rng.normal(size=(samples, 3))}
    return {"w": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)}, {
        name: jnp.asarray(value, jnp.float32) for name, value in batch.items()
    }


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_parts_give_what_the_batch_gives(parts):
    params, batch = _arrays()
    (loss, terms), found = gradients(_loss, params, batch, parts)
    x, y, w = (np.float64(a) for a in (batch["x"], batch["y"], params["w"]))
    error = x @ w - y
    np.testing.assert_allclose(loss, np.abs(error).mean(), rtol=1e-6)
    largest = np.abs(error).max(axis=-1).mean()
    np.testing.assert_allclose(terms["largest"], largest, rtol=1e-6)
    wanted = x.T @ np.sign(error) / error.size
    np.testing.assert_allclose(found["w"], wanted, atol=1e-6)


def test_each_part_has_samples_of_every_device():
    """Device d of D holds rows d N / D to (d + 1) N / D."""
    rows = jnp.arange(8.0)
    seen = []

    def loss(params, batch):
        jax.debug.callback(lambda x: seen.append(x.tolist()), batch, ordered=True)
        return params * batch.mean(), {}

    gradients(loss, jnp.float32(1), rows, 2)
    jax.effects_barrier()
    assert seen == [[0, 2, 4, 6], [1, 3, 5, 7]]


def _step(devices, parts):
    """The state and scalars after a step of phase 2 with a batch of 8."""
    config = student_config("unused")
    config.train.batch_size, config.train.accumulate = 8, parts
    config.mesh.data = devices
    mesh = sharding.make_mesh(devices)
    everywhere = sharding.replicated(mesh)
    step = steps.train_step(config, optimizer_of(config), Teacher(alpha=0.5), phase=2)
    state = create_state(config, random_params(config, 1))
    frozen = random_params(teacher_config(), 0)
    batch = sharding.put_batch(random_batch(0, 8, 32), mesh)
    state, frozen = jax.device_put((state, frozen), everywhere)
    return jax.device_get(sharding.jit_train_step(step, mesh)(state, frozen, batch))


def test_a_step_in_parts_on_four_devices_is_the_step_on_one():
    want, scalars = _step(devices=1, parts=1)
    got, others = _step(devices=4, parts=2)
    for name in ("loss", "loss_image", "loss_feature", "grad_norm"):
        np.testing.assert_allclose(others[name], scalars[name], rtol=2e-5)
    first, wanted = (
        state.opt_state[0].inner_state[1].inner_states["sr"] for state in (got, want)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("teacher", {"train.accumulate": 2}, "teacher's loss"),
        ("student", {"train.accumulate": 3}, "batch_size \\(2\\) must be a multiple"),
        ("student", {"train.accumulate": 0}, "at least 1"),
        (
            "student",
            {"train.accumulate": 2, "loss.scale_features": True},
            "scale_features",
        ),
    ],
)
def test_what_cannot_be_accumulated(kind, changes, says):
    config = teacher_config() if kind == "teacher" else student_config("unused")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=f"config.train.accumulate is .*{says}"):
        check_values(config)


def test_parts_that_the_devices_cannot_share():
    config = student_config("unused")
    config.mesh.data, config.train.batch_size, config.train.accumulate = 4, 8, 4
    with pytest.raises(UserError, match=r"accumulate is 4: .* times the 4 devices"):
        check_config(config)
