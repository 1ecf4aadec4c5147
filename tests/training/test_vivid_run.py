"""A vivid teacher's run: its start, its step, its validation and its checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_fixtures import (
    create_state,
    random_batch,
    random_params,
    student_config,
    teacher_config,
)

from hkdnet_jax.common.arrays import to_float, to_uint8
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.losses.vivid import vivid_loss, vivid_target
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.training import networks, run, steps, val_steps, views
from hkdnet_jax.training.config_check import check_values

CONTEXT = 4.0


def vivid_config(init_from="a teacher"):
    config = teacher_config()
    config.teacher.style, config.teacher.context = "vivid", CONTEXT
    config.init_from = str(init_from)
    config.loss.percep = 0.0
    return config


@pytest.fixture(scope="module")
def taken(tiny_teacher):
    """The run, its parameters before and after a step, the scalars and the batch."""
    vivid = run.Run(vivid_config(tiny_teacher))
    state = vivid.init_state()
    before = jax.device_get(state.params)
    batch = next(vivid.batches())
    state, scalars = vivid.train_step(1)(state, vivid.frozen, batch)
    return vivid, before, jax.device_get(state.params), scalars, batch


def test_it_starts_with_the_weights_of_its_source(taken, tiny_teacher):
    _, before, _, _, _ = taken
    source = Model.load(tiny_teacher)
    jax.tree.map(np.testing.assert_array_equal, before, dict(source.params))


def test_a_step_learns_the_pair(taken):
    vivid, before, after, scalars, batch = taken
    config = vivid.config
    ir, vis = steps.augmented(config, 0, batch)
    teacher = networks.build_teacher(config)
    output, _ = jax.jit(teacher.apply)({"params": before}, ir, vis)
    total, terms = jax.jit(vivid_loss)(output, ir, vis)
    np.testing.assert_allclose(scalars["loss"], total, rtol=1e-4)
    for name, value in terms.items():
        np.testing.assert_allclose(scalars[f"loss_{name}"], value, rtol=1e-3)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after, before)
    assert all(jax.tree.leaves(moved))


def test_weights_of_the_terms_are_the_configurations(taken):
    vivid, before, _, scalars, batch = taken
    config = vivid_config()
    config.loss.intensity, config.loss.gradient, config.loss.similarity = 1.0, 0.0, 0.0
    step = steps.train_step(config, vivid.optimizer, vivid.teacher, 1)
    state = vivid.init_state().replace(params=before)
    _, other = jax.jit(step)(state, {}, batch)
    np.testing.assert_allclose(other["loss"], scalars["loss_intensity"], rtol=1e-4)


def test_a_model_file_keeps_the_context(taken, tmp_path):
    vivid, before, _, _, _ = taken
    description = networks.describe_network(vivid.config)
    file_format.save_model(tmp_path, description, before)
    assert Model.load(tmp_path).network == networks.build_teacher(vivid.config)
    start = networks.load_start(tmp_path, before)
    jax.tree.map(np.testing.assert_array_equal, start, before)
    file_format.save_model(tmp_path, description | {"context": -1.0}, before)
    with pytest.raises(UserError, match="does not describe a network"):
        Model.load(tmp_path)


def test_validation_compares_with_the_target(taken):
    vivid, before, _, _, _ = taken
    batch = random_batch(5, 2, 48)
    step = jax.jit(val_steps.teacher_val_step(vivid.config))
    sums, drawn = step(before, {}, batch | {"mask": jnp.ones(2)})
    pair = (to_float(batch[name]) for name in ("ir", "vis"))
    target = jax.jit(vivid_target)(*pair)
    np.testing.assert_array_equal(drawn["label"], to_uint8(target))
    error = np.square(np.float64(drawn["fused"]) / 255 - target).mean((1, 2, 3))
    np.testing.assert_allclose(sums["psnr"], -10 * np.log10(error).sum(), rtol=1e-2)
    assert {"psnr_ir", "psnr_vis", "ssim", "alive_decoder1"} <= sums.keys()


def changed(**values):
    config = vivid_config()
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in values.items()}
    )
    return config


def test_a_sound_configuration_passes():
    check_values(vivid_config())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"teacher__style": "loud"}, r"teacher\.style is 'loud': it must be one of"),
        ({"init_from": ""}, r"teacher\.style is 'vivid': .*config\.init_from"),
        ({"loss__percep": 1.0}, r"loss\.percep is 1\.0: .*set it to 0"),
        ({"loss__gradient": -1.0}, r"loss\.gradient is -1\.0: .*at least 0"),
        ({"teacher__context": 100.0}, r"teacher\.context is 100\.0: .*below 100"),
        ({"teacher__context": 0.0}, r"teacher\.context is 0\.0: .*such as 12"),
        ({"data__degradation": "camera"}, r"data\.degradation is 'camera': a teacher"),
    ],
)
def test_what_cannot_work_is_one_sentence(values, says):
    with pytest.raises(UserError, match=says):
        check_values(changed(**values))


def test_a_student_has_no_style_of_its_own():
    config = student_config("a teacher")
    config.teacher.style = "vivid"
    with pytest.raises(UserError, match=r"style is 'vivid': it is for a teacher's run"):
        check_values(config)


# A student of the degradation `camera`.


def test_the_labels_of_camera_pairs_are_those_of_the_clean_pair(tiny_teacher):
    config = student_config(tiny_teacher)
    config.data.degradation = "camera"
    pair = tuple(to_float(x) for x in random_batch(1, 12, 32).values())
    keys = [steps.step_key(config, step, stream=2) for step in (0, 1)]
    seen = [views.whole_view(config, key, pair, 2) for key in (*keys, keys[0])]
    clean = seen[0].clean
    for a, b, again, low in zip(*(x.taken for x in seen), clean, strict=True):
        assert np.any(a != b) and np.any(a != low)
        np.testing.assert_array_equal(a, again)
    config.data.degradation = "bilinear"
    for a, b in zip(
        views.whole_view(config, keys[0], pair, 2).taken, clean, strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_camera_student_takes_a_step_and_is_validated(tiny_teacher):
    config = student_config(tiny_teacher)
    plain = run.Run(config.copy_and_resolve_references())
    config.data.degradation = "camera"
    camera = run.Run(config)
    batch = next(camera.batches())
    losses = []
    for each in (plain, camera):
        state = create_state(config, jax.device_put(random_params(config, 0)))
        # Both phases see the same pair, and this one takes less to compile.
        _, scalars = each.train_step(1)(state, each.frozen, batch)
        assert int(scalars["skipped"]) == 0
        losses.append(float(scalars["loss"]))
    assert losses[0] != losses[1]
    params = jax.device_put(random_params(config, 0))
    crops = random_batch(3, 2, 32) | {"mask": jnp.ones(2)}
    (a, _), (b, _) = (r.val_step()(params, r.frozen, crops) for r in (plain, camera))
    assert a["psnr"] != b["psnr"]
    # What the pair is compared with stays the same.
    drawn = [r.val_step()(params, r.frozen, crops)[1]["label"] for r in (plain, camera)]
    np.testing.assert_array_equal(*drawn)


# Single images as pairs of themselves.


def test_a_share_of_the_samples_are_single_images():
    config = student_config("a teacher")
    pair = tuple(to_float(x) for x in random_batch(2, 200, 4).values())
    key = steps.step_key(config, 0, stream=4)
    for before, after in zip(pair, steps._single(config, key, pair), strict=True):
        assert before is after
    config.data.single = 0.4
    ir, vis = steps._single(config, key, pair)
    alike = np.all(ir == vis, axis=(1, 2, 3))
    assert 0.25 < alike.mean() < 0.55
    of_ir = np.all(ir == pair[0], axis=(1, 2, 3))
    of_vis = np.all(vis == pair[1], axis=(1, 2, 3))
    assert np.all(of_ir[~alike] & of_vis[~alike])
    assert np.all(of_ir[alike] != of_vis[alike])
    assert 0.25 < of_ir[alike].mean() < 0.75
