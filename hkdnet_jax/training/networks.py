"""The networks of a run: building, initialising and describing them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
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

    For a student's run, whose teacher comes from a file, it is the paper's teacher.
    """
    alpha, damping = config.teacher.alpha, config.teacher.damping
    rule = 0.5 if alpha is None else alpha, damping or 0.0
    return Teacher(*rule, config.teacher.context)


def build_student(config: ConfigDict) -> Student:
    """The student that a configuration describes."""
    dtype = jnp.dtype(config.dtype)
    arithmetic = dtype, config.attention, config.precision
    return Student(model_of(config), config.scale, *arithmetic)


def has_adapter(config: ConfigDict) -> bool:
    """Whether the run trains a `FeatureAdapter`.

    It does if Eq. 23 compares features and the student's width is not the teacher's.
    """
    other_width = config.model.width != TEACHER_CHANNELS
    return config.kind == "student" and other_width and config.loss.phi > 0


def init_params(config: ConfigDict) -> Params:
    """Initial parameters of the network that is trained, drawn from `config.seed`.

    A student has a third group, `adapter`, if `has_adapter` is true.
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
    """Initial parameters of the teacher, drawn from `config.seed`."""
    return initial(build_teacher(config), config.seed, inputs=2)


def initial(network: nn.Module, seed: int, inputs: int) -> Params:
    """Initial parameters of a network whose biases may depend on its first images.

    These have all levels, in smooth gradients.

    Args:
      network: takes `inputs` images [N, H, W, 1] in [0, 1].
      seed: of the parameters and the images.
      inputs: number of images, which all get the same.
    """
    key = jax.random.key(seed)
    levels = jax.random.uniform(jax.random.fold_in(key, 1), (8, 6, 6, 1))
    images = jax.image.resize(levels, (8, 48, 48, 1), "linear")
    return network.init(key, *[images] * inputs)["params"]


def describe_network(config: ConfigDict) -> dict[str, Any]:
    """The part of a configuration that a model directory stores: the network alone.

    Returns:
      A JSON-serialisable dict from which `Model.load` rebuilds the network.
    """
    if config.kind == "teacher":
        teacher = build_teacher(config)
        rule = {"alpha": teacher.alpha, "damping": teacher.damping}
        if teacher.context:
            rule["context"] = teacher.context
        return {"kind": "teacher", **rule}
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        # Keys that an older configuration lacks have their defaults.
        for name, value in dataclasses.asdict(model_of(config)).items()
        if name != "remat"  # a matter of training, not of the network
    }
    return {"kind": "student", "scale": config.scale, "model": fields}


def load_start(directory: Path | str, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Reads the parameters of a model that a run starts from.

    A teacher's run takes all parameters of a teacher; a student's takes the
    super-resolution part of a release, and all parameters of a student, except the
    upsampler's if that is another, as for another scale.  A continuous upsampler takes
    the filters of a student of scale 2, and at that factor makes the same image.

    Args:
      directory: model directory of a teacher, a student or a converted release.
      wanted: the parameters that the run has, as arrays or jax.ShapeDtypeStruct.

    Returns:
      The parameters that the run takes over, nested as `wanted`.

    Raises:
      UserError: the directory holds no model, or one whose parameters have other names
        or shapes.
    """
    model = Model.load(directory)
    is_student = isinstance(model.network, Student)
    if "encoder" in wanted:
        parts = ("encoder", "decoder")
    else:
        parts = ("fusion", "sr") if is_student else ("sr",)
    params = model.params
    other = is_student and "sr" in wanted and _upsamplers_differ(params, wanted)
    left_out = "upsampler" if other else None

    def select(params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            part: {k: v for k, v in params[part].items() if k != left_out}
            for part in parts
            if part in params
        }

    start = select(params)
    differences = trees.list_differences(
        trees.describe_arrays(start), trees.describe_arrays(select(wanted))
    )
    if differences:
        raise UserError(
            f"config.init_from={directory} holds no weights that fit this run "
            f"({differences}): a teacher's run needs a teacher; a student's needs a "
            "student of the same config.model, or a release of the same config.scale."
        )
    if other and "filters" in wanted["sr"]["upsampler"] and model.scale == 2:
        conv = params["sr"]["upsampler"]["conv1"]
        start["sr"]["upsampler"] = {"filters": jax.tree.map(_quarters, conv)}
    return start


def _quarters(leaf: np.ndarray) -> np.ndarray:
    """Filters of the quarters of a pixel along each axis, made of those of its halves.

    Args:
      leaf: kernel or bias of a sub-pixel convolution of scale 2, [..., 4 C].

    Returns:
      [..., 16 C], as `blocks.ContinuousUpsampler` wants it.  At factor 2 it starts with
      the means of two such filters along each axis, which are equal.
    """
    halves = leaf.reshape(*leaf.shape[:-1], 2, 2, -1)
    quarters = halves.repeat(2, axis=-3).repeat(2, axis=-2)
    return quarters.reshape(*leaf.shape[:-1], -1)


def _upsamplers_differ(params: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    own, other = (
        trees.describe_arrays(tree["sr"]["upsampler"]) for tree in (params, wanted)
    )
    return own != other


def load_teacher(directory: str | Path) -> tuple[Teacher, Params]:
    """Reads a trained teacher and its parameters.

    Raises:
      UserError: the directory holds no model, or one that is not a teacher.
    """
    model = Model.load(directory)
    if not isinstance(model.network, Teacher):
        raise UserError(
            f"config.teacher.dir={directory} holds a student, not a teacher: give the "
            "workdir of a run of configs/teacher.py."
        )
    return model.network, model.params
