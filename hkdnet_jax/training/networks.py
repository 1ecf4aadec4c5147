"""The networks of a run: built from its configuration, begun, described."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import TEACHER_CHANNELS, FeatureAdapter, Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.training.config import model_of
from hkdnet_jax.training.state import Params


def build_teacher(config: ConfigDict) -> Teacher:
    """The teacher that a configuration describes.

    Of a student's run, whose teacher has a file of its own, the paper's.
    """
    alpha, damping = config.teacher.alpha, config.teacher.damping
    return Teacher(0.5 if alpha is None else alpha, damping or 0.0)


def build_student(config: ConfigDict) -> Student:
    """The student that a configuration describes."""
    dtype = jnp.dtype(config.dtype)
    arithmetic = dtype, config.attention, config.precision
    return Student(model_of(config), config.scale, *arithmetic)


def has_adapter(config: ConfigDict) -> bool:
    """Whether the run trains a `FeatureAdapter`: for Eq. 23, at another width."""
    other_width = config.model.width != TEACHER_CHANNELS
    return config.kind == "student" and other_width and config.loss.phi > 0


def init_params(config: ConfigDict) -> Params:
    """Fresh parameters of the network that is trained, from `config.seed`.

    A student gets a third group, `adapter`, where it has one (see `has_adapter`).
    """
    if config.kind == "teacher":
        return init_teacher(config)
    key, image = jax.random.key(config.seed), jnp.zeros((1, 16, 16, 1))
    params = build_student(config).init(key, image, image)["params"]
    if has_adapter(config):
        features = jnp.zeros((1, 1, 1, config.model.width))
        adapter = FeatureAdapter().init(jax.random.fold_in(key, 1), features)
        params = params | {"adapter": adapter["params"]}
    return params


def init_teacher(config: ConfigDict) -> Params:
    """Fresh parameters of the teacher."""
    key, image = jax.random.key(config.seed), jnp.zeros((1, 16, 16, 1))
    return build_teacher(config).init(key, image, image)["params"]


def describe_network(config: ConfigDict) -> dict[str, Any]:
    """What a model directory keeps of a run's configuration: the network alone.

    Returns:
      A JSON-able dict from which `Model.load` builds the network again.
    """
    if config.kind == "teacher":
        teacher = build_teacher(config)
        return {"kind": "teacher", "alpha": teacher.alpha, "damping": teacher.damping}
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.model.to_dict().items()
    }
    return {"kind": "student", "scale": config.scale, "model": fields}


def load_start(
    directory: Path | str, scale: int, wanted: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Parameters of a model for a student's run to start from.

    Of a release the super-resolution part; of a student all, but the upsampler where
    the scales differ.

    Args:
      directory: of a student or of a converted release.
      scale: of the run.
      wanted: the parameters that the run has, as arrays or jax.ShapeDtypeStruct.

    Raises:
      UserError: no model is there, or it has no such parameters of these sizes.
    """
    model = Model.load(directory)
    a_student = isinstance(model.network, Student)
    parts = ("fusion", "sr") if a_student else ("sr",)
    left_out = "upsampler" if a_student and model.scale != scale else None

    def taken(params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            part: {k: v for k, v in params[part].items() if k != left_out}
            for part in parts
            if part in params
        }

    start = taken(model.params)
    have, want = (
        {name: trees.describe_array(leaf) for name, leaf in trees.flatten(tree).items()}
        for tree in (start, taken(wanted))
    )
    differences = trees.list_differences(have, want)
    if differences:
        raise UserError(
            f"config.init_from={directory} holds no weights of this run's sizes "
            f"({differences}): give a student of the same config.model, or a release "
            "of the same config.scale."
        )
    return start


def load_teacher(directory: str | Path) -> tuple[Teacher, Params]:
    """A trained teacher and its parameters.

    Raises:
      UserError: the directory holds no teacher.
    """
    model = Model.load(directory)
    if not isinstance(model.network, Teacher):
        raise UserError(
            f"config.teacher.dir={directory} holds a student, not a teacher: give the "
            "workdir of a run of configs/teacher.py."
        )
    return model.network, model.params
