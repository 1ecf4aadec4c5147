"""Trained networks: what a model directory says of its network, and loading it."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hkdnet_jax.common import keys, trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.presets import MIN_SIDE, SCALES, StudentConfig
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.released.network import CORNER_SKIPS, Released
from hkdnet_jax.runtime.precision import DTYPES


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained network, ready to fuse.

    Attributes:
      network: a Teacher, a Student, or the authors' Released one.
      params: its parameters, on the device.
      scale: output pixels per input pixel along each side; 1 for a teacher.
    """

    network: nn.Module
    params: Mapping[str, Any]
    scale: int

    @classmethod
    def load(cls, directory: Path | str) -> "Model":
        """Loads a model directory, such as the workdir of a training run.

        Raises:
          UserError: no model is there, or its file is damaged, describes another
            network than it holds, or holds numbers that are not finite.
        """
        config, params = file_format.load_model(directory)
        try:
            network, scale = _build(config)
            image = jax.ShapeDtypeStruct((1, MIN_SIDE, MIN_SIDE, 1), jnp.float32)
            with jax.enable_x64(False):  # parameters are float32 for everyone
                # A key that is not drawn, for that would be a program to compile.
                key = jax.eval_shape(jax.random.key, 0)
                expected = jax.eval_shape(network.init, key, image, image)
        except Exception as error:
            # Whatever a value that no trainer wrote breaks, at whatever depth.
            raise UserError(
                f"{directory} describes no network of this version "
                f"({type(error).__name__}: {error}): train it again, or use the "
                "version that wrote it."
            ) from error
        try:
            trees.check_params(params, expected["params"])
        except UserError as error:
            raise UserError(f"{directory}: {error}") from error
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
            raise UserError(
                f"{directory} holds weights that are not finite: its training failed, "
                "so train it again, with a smaller optim.lr."
            )
        return cls(network, jax.device_put(params), scale)

    def on(self, device: jax.Device) -> "Model":
        """The same model with its parameters on `device`, so that it runs there."""
        params = jax.device_put(self.params, device)
        return dataclasses.replace(self, params=params)

    def astype(self, dtype: str) -> "Model":
        """The same model computing in another of DTYPES.

        A student's parameters, softmax, last convolution and picture stay float32.

        Raises:
          ValueError: another dtype.
          UserError: a dtype other than float32 for a teacher or the released network.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        if isinstance(self.network, Student):
            network = self.network.clone(dtype=jnp.dtype(dtype))
            return dataclasses.replace(self, network=network)
        if dtype != "float32":
            kind = type(self.network).__name__.lower()
            raise UserError(
                f"A {kind} network computes in float32 alone, not in {dtype}: drop "
                "the dtype, or take a student."
            )
        return self


def _build(config: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """The network that a model directory's configuration describes, and its scale.

    Raises:
      ValueError, TypeError: the configuration is none that training writes.
    """
    match config:
        case {"kind": "teacher", "alpha": alpha, "damping": damping}:
            known = {type(alpha), type(damping)} <= {int, float} and damping >= 0
            if len(config) != 3 or not (known and math.isfinite(alpha + damping)):
                raise ValueError(f"no teacher's configuration: {config}")
            return Teacher(float(alpha), float(damping)), 1
        case {"kind": "student", "scale": int() as scale, "model": dict() as fields}:
            if len(config) != 3 or scale not in SCALES[1:]:
                raise ValueError(f"no student's configuration: {config}")
            return Student(keys.from_mapping(StudentConfig, fields), scale), scale
        case {"kind": "released", "scale": int() as scale, "corner_skip": skip}:
            known = scale in SCALES[1:] and skip in CORNER_SKIPS
            if len(config) != 3 or not known:
                raise ValueError(f"no released network's configuration: {config}")
            return Released(scale, skip), scale
    raise ValueError(f"no configuration of a network: {config}")
