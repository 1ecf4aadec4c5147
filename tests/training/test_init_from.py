"""A student's run that starts from another model."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_fixtures
from ml_collections import ConfigDict
from train_fixtures import (
    optimizer_of,
    random_batch,
    random_params,
    student_config,
    teacher_config,
)

from configs import student_x3
from hkdnet_jax import main
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.released.conversion import convert
from hkdnet_jax.training import networks, run, steps, workdir
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.networks import describe_network, load_start


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_teacher):
    """A model directory of a student of the sizes that the runs here have."""
    config = student_config(tiny_teacher)
    params = random_params(config, seed=5)
    directory = tmp_path_factory.mktemp("source")
    kept = {name: params[name] for name in ("fusion", "sr")}
    file_format.save_model(directory, describe_network(config), kept)
    return directory


@pytest.fixture(scope="module")
def config(source, tiny_teacher):
    config = student_config(tiny_teacher)
    config.init_from = str(source)
    config.optim.ema = 0.9
    return config


def changed(config, **values):
    other = ConfigDict(config.to_dict())
    other.update(values)
    return other


def sr_of(directory):
    return file_format.load_model(directory)[1]["sr"]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_moved(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    assert not all(np.array_equal(x, y) for x, y in pairs)


def one_step(config, phase):
    """A state with source's SR part, and the state one step later."""
    state = run.Run(config).init_state()
    # A phase is one step long in `optimizer_of`.
    state = state.replace(step=jnp.int32(phase - 1))
    teacher = Model.load(config.teacher.dir)
    step = steps.student_train_step(config, optimizer_of(config), Teacher(), phase)
    batch = random_batch(0, config.train.batch_size, config.data.crop)
    return jax.device_get(state), jax.device_get(
        jax.jit(step)(state, teacher.params, batch)[0]
    )


def test_the_run_starts_from_that_student_and_else_as_it_would(config, source):
    state = jax.device_get(run.Run(config).init_state())
    plain = jax.device_get(run.Run(changed(config, init_from="")).init_state())
    _, given = file_format.load_model(source)
    for part in ("fusion", "sr"):
        assert_equal(state.params[part], given[part])
        assert_equal(state.ema[part], given[part])
        assert_moved(state.params[part], plain.params[part])
    assert_equal(state.params["adapter"], plain.params["adapter"])
    assert_equal(state.opt_state, plain.opt_state)


def test_freezing_keeps_that_part_and_trains_all_else_alike(config):
    before, free = one_step(config, phase=2)
    _, frozen = one_step(changed(config, init_freeze=True), phase=2)
    assert_moved(before.params["sr"]["head"], free.params["sr"]["head"])
    assert_equal(frozen.params["sr"], before.params["sr"])
    assert_equal(frozen.ema["sr"], before.ema["sr"])
    for group in ("fusion", "adapter"):
        # The gradient still passes through the frozen part.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            frozen.params[group],
            free.params[group],
        )
        assert_moved(before.params[group], frozen.params[group])


def test_phase_1_moves_the_fusion_part_alone(config):
    before, after = one_step(changed(config, init_freeze=True), phase=1)
    assert_equal(after.params["sr"], before.params["sr"])
    assert_moved(before.params["fusion"]["ir"], after.params["fusion"]["ir"])


def test_a_run_with_the_part_frozen_keeps_it_and_resumes_without_the_source(
    config, source, tmp_path
):
    moved = tmp_path / "source"
    shutil.copytree(source, moved)
    config = changed(config, init_from=str(moved), init_freeze=True)
    config.train.epochs, config.train.phase1_epochs = 1, 0
    folder = tmp_path / "run"
    assert workdir.run(config, str(folder))
    assert_equal(sr_of(folder), sr_of(source))
    shutil.rmtree(moved)
    assert workdir.run(config, str(folder))


@pytest.mark.parametrize("scale", [2, 3])
def test_a_released_model_starts_a_full_student(scale, tmp_path):
    params = convert(released_fixtures.tensors(scale), scale)
    description = {"kind": "released", "scale": scale, "corner_skip": "feature"}
    file_format.save_model(tmp_path, description, params)
    config = student_x3.get_config()
    wanted = jax.eval_shape(lambda: networks.init_params(config))
    if scale == 3:
        start = jax.device_get(load_start(tmp_path, wanted))
        assert list(start) == ["sr"]
        assert_equal(start["sr"], params["sr"])
        return
    with pytest.raises(UserError, match=r"init_from=.*upsampler/conv1.*config\.scale"):
        load_start(tmp_path, wanted)


def test_a_student_of_all_factors_starts_as_that_of_scale_2(config, source):
    config = changed(config, init_freeze=False)
    config.model.upsampler = "continuous"
    config.data.crop, config.data.val_crop = 64, 72
    state = jax.device_get(run.Run(config).init_state())
    pair = jnp.asarray(np.random.default_rng(0).random((2, 1, 12, 9, 1), np.float32))
    params = {name: state.params[name] for name in ("fusion", "sr")}
    network = Student(networks.model_of(config), 2)
    image, out = jax.jit(network.apply)({"params": params}, *pair)
    given = Model.load(source)
    wanted, parts = jax.jit(given.network.apply)({"params": given.params}, *pair)
    np.testing.assert_allclose(out["upsampled"], parts["upsampled"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(image, wanted, rtol=0, atol=2e-5)
    assert np.ptp(wanted) > 0.1
    with pytest.raises(UserError, match=r"init_freeze would keep an upsampler"):
        run.Run(changed(config, init_freeze=True)).init_state()


def test_a_student_of_another_scale_gives_all_but_its_upsampler(config, source):
    config = changed(config, scale=3)
    config.data.crop = config.data.val_crop = 48
    state = jax.device_get(run.Run(config).init_state())
    plain = jax.device_get(run.Run(changed(config, init_from="")).init_state())
    _, given = file_format.load_model(source)
    assert_equal(state.params["fusion"], given["fusion"])
    for name, tree in state.params["sr"].items():
        wanted = plain.params if name == "upsampler" else given
        assert_equal(tree, wanted["sr"][name])
    assert_equal(state.ema, state.params)
    assert_equal(state.params["adapter"], plain.params["adapter"])
    with pytest.raises(UserError, match=r"init_freeze would keep an upsampler"):
        run.Run(changed(config, init_freeze=True)).init_state()


def test_models_that_do_not_fit(config, source, tiny_teacher, tmp_path):
    for bad, word in (
        (changed(config, init_from=str(tiny_teacher)), "missing: sr/body/bias"),
        (changed(config, init_from=str(tmp_path / "none")), "does not exist"),
        (changed(config, model=dict(config.model) | {"width": 4}), "wrong: fusion/dec"),
    ):
        with pytest.raises(UserError, match=word):
            run.Run(bad).init_state()


def test_options_that_contradict_each_other(config, source):
    check_config(config)
    check_config(changed(config, init_freeze=True))
    with pytest.raises(UserError, match=r"init_freeze.*config\.init_from"):
        check_config(changed(config, init_from="", init_freeze=True))
    teacher = changed(teacher_config(), init_from=str(source))
    with pytest.raises(UserError, match=r"init_from=.*a teacher's run needs a teacher"):
        run.Run(teacher).init_state()


def test_command_line_names_a_model_that_does_not_fit(tiny_teacher, tmp_path, capfd):
    code = main.main(
        [
            "--config=configs/student_x2.py:tiny",
            f"--workdir={tmp_path}",
            "--config.mesh.data=1",
            f"--config.teacher.dir={tiny_teacher}",
            f"--config.init_from={tiny_teacher}",
        ]
    )
    errors = capfd.readouterr().err.splitlines()
    assert code == 1
    assert errors[-1].startswith(f"error: config.init_from={tiny_teacher} holds no")
    assert not list(tmp_path.glob("*.safetensors"))
