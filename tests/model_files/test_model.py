"""Models of files: configurations and weights that are refused, fields that count."""

import dataclasses

import numpy as np
import pytest
from command_fixtures import TINY, random_params
from fuse_fixtures import config_of

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher


def student_with(**fields):
    config = config_of(2)
    config["model"] |= fields
    return config


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "critic"},
        {"kind": "teacher"},
        {"kind": "teacher", "alpha": 0.5},
        {"kind": "teacher", "alpha": "half", "damping": 0.0},
        {"kind": "teacher", "alpha": True, "damping": 0.0},
        {"kind": "teacher", "alpha": 0.5, "damping": -1.0},
        {"kind": "teacher", "alpha": 0.5, "damping": 0.0, "beta": 1},
        {**config_of(2), "scale": 5},
        {**config_of(2), "scale": True},
        {**config_of(2), "scale": "2"},
        {**config_of(2), "more": 1},
        {**config_of(2), "model": None},
        student_with(depth=3),
        student_with(width="8"),
        student_with(width=0),
        student_with(dfag=1),
        student_with(decoder=8),
        student_with(decoder=["8", 8, 8]),
        student_with(dfa_softmax="height"),
    ],
)
def test_unknown_configurations_are_refused(tmp_path, config):
    file_format.save_model(tmp_path / "m", config, {"x": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"m does not describe a network of this"):
        Model.load(tmp_path / "m")


def test_weights_must_fit_the_configuration(models, tmp_path):
    _, params = file_format.load_model(models[2])
    for name, config, missing in (
        ("wide", student_with(width=16), "fusion/ir/conv/kernel"),
        ("teacher", config_of(1), "missing: decoder/conv1/bias"),
    ):
        file_format.save_model(tmp_path / name, config, params)
        with pytest.raises(UserError, match=f"{name}: .*do not fit.*{missing}"):
            Model.load(tmp_path / name)


def test_weights_must_be_finite(models, tmp_path):
    config, params = file_format.load_model(models[1])
    params["decoder"]["conv4"]["bias"] = np.array([np.nan], np.float32)
    file_format.save_model(tmp_path / "nan", config, params)
    with pytest.raises(UserError, match=r"nan holds weights that are not finite"):
        Model.load(tmp_path / "nan")


def test_fields_of_the_configuration_reach_the_network(tmp_path):
    student = dataclasses.replace(TINY, decoder=(4, 8, 8), cea=False, skip_alpha=1.0)
    params = random_params(Student(student, 3))
    fields = dataclasses.asdict(student) | {"skip_alpha": 1}  # as JSON may hold 1.0
    config = {"kind": "student", "scale": 3, "model": fields}
    file_format.save_model(tmp_path / "s", config, params)
    assert Model.load(tmp_path / "s").network == Student(student, 3)
    params = random_params(Teacher())
    file_format.save_model(
        tmp_path / "t", {"kind": "teacher", "alpha": 1, "damping": 2}, params
    )
    assert Model.load(tmp_path / "t").network == Teacher(1.0, 2.0)


def test_a_value_out_of_its_limits_is_refused(tmp_path):
    params = random_params(Student(TINY, 2))
    fields = dataclasses.asdict(TINY) | {"corner_gamma": 5.0}
    config = {"kind": "student", "scale": 2, "model": fields}
    file_format.save_model(tmp_path, config, params)
    with pytest.raises(UserError, match=r"corner_gamma is 5\.0: it must be below 1"):
        Model.load(tmp_path)
