"""Trained networks, as they are loaded from model directories."""

import dataclasses
import functools
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
from hkdnet_jax.common.levels import AUTO, Range
from hkdnet_jax.model_files import call, file_format
from hkdnet_jax.model_files.ensemble import Ensemble
from hkdnet_jax.models.presets import (
    LARGEST_SCALE,
    LEAST_SCALE,
    MIN_SIDE,
    SCALES,
    StudentConfig,
)
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher, for_reduced
from hkdnet_jax.ops.places import UNIT, in_units
from hkdnet_jax.released.network import CORNER_SKIPS, Released
from hkdnet_jax.runtime import devices
from hkdnet_jax.runtime.precision import DTYPES


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained network that is ready to fuse.

    Attributes:
      network: a Teacher, a Student, or the authors' Released network; or an Ensemble
        of one, see `ensembled`.
      params: its parameters, on the device.
      scale: output pixels per input pixel along each side; 1 for a teacher.  Sides that
        are no whole pixels then are rounded, see `ops.places.enlarged`.
    """

    network: nn.Module | Ensemble
    params: Mapping[str, Any]
    scale: float

    @classmethod
    def load(cls, directory: Path | str, *, check_shapes: bool = True) -> "Model":
        """Loads a model directory, such as the workdir of a training run.

        Args:
          directory: the model directory, see `common.paths.as_path`.
          check_shapes: whether to compare the parameters with those of the network that
            the file describes, which takes a third of a second. The file's checksum is
            compared in any case.

        Raises:
          UserError: jax finds no device, there is no model, or its file is damaged,
            describes another network than it holds, or holds numbers that are not
            finite.
        """
        devices.check()
        config, stored = file_format.load_model(directory)
        params = jax.tree.map(_as_float32, stored)
        try:
            network, scale = _build(config)
            expected = param_shapes(network) if check_shapes else params
        except Exception as error:
            # A value that no trainer wrote may break anything, at any depth.
            raise UserError(
                f"{directory} does not describe a network of this version "
                f"({type(error).__name__}: {error}): train it again, or use the "
                "version that wrote it."
            ) from error
        try:
            trees.check_params(params, expected)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from error
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
            raise UserError(
                f"{directory} holds weights that are not finite: its training failed, "
                "so train it again, with a smaller optim.lr."
            )
        return cls(network, jax.device_put(params), scale)

    def __call__(
        self,
        ir: Any,
        vis: Any,
        *,
        ir_range: str | Range | tuple[float, float] = AUTO,
        vis_range: str | Range | tuple[float, float] = AUTO,
        range_per: str = "batch",
        ir_palette: str | None = None,
        normalize: str = "unit",
        stretch: bool = False,
        depth: str = "8",
        color: str = "auto",
        pad_to: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Fuses a registered pair, or a batch of pairs, of one size.

        Each new image size is compiled once per process, unless `pad_to` makes several
        share a program.  Threads may share a model.

        >>> import numpy as np
        >>> import hkdnet_jax
        >>> model = hkdnet_jax.load(scale=2)
        >>> ir = np.full((12, 16), 7000, np.uint16)
        >>> ir[4:8, 5:9] = 9000
        >>> vis = np.zeros((12, 16, 3), np.uint8)
        >>> picture = model(ir, vis, ir_range=(6000, 9000))
        >>> picture.shape, picture.dtype
        ((24, 32, 3), dtype('uint8'))
        >>> both = np.stack([ir, ir]), np.stack([vis, vis])
        >>> model(*both, depth="16", color="gray").shape
        (2, 24, 32)
        >>> [model(ir[:h, :w], vis[:h, :w], pad_to=(12, 16)).shape
        ...  for h, w in ((12, 15), (9, 16))]
        [(24, 30, 3), (18, 32, 3)]

        Args:
          ir: the infrared images, [H, W], [H, W, 3], [N, H, W] or [N, H, W, 3], or a
            PIL image: uint8, uint16, uint32, int8, int16, int32, float16, float32 or
            float64, of any byte order and strides.  A last dimension of 3 is colour, of
            which the luma counts.
          vis: the visible images, of the same number and size; their dtype may differ.
            A last dimension of 3 gives the result their colour.
          ir_range: the infrared levels that become black and white.  `auto` keeps uint8
            as it is, and takes the levels from the 0.1 % to the 99.9 % quantile of any
            other dtype; `full` takes all that the dtype can hold, 0 to 1 for floating
            point; (low, high) are those levels.
          vis_range: the same for the visible images.
          range_per: whether `auto` takes one range for a `batch`, or one per `image`.
          ir_palette: for infrared pictures in false colours the palette that they were
            drawn with: `ironbow`, `rainbow`, or a file, see `common.palettes.load`.
          normalize: `unit` for those ranges; `minmax` maps the smallest and largest
            level of each image to 0 and 1 instead.
          stretch: whether the smallest and largest level of each result (before
            clipping) become black and white; the result of a flat pair becomes black.
            Otherwise results are clipped to [0, 1].
          depth: "8", "16" or "float", which decides the dtype of the result.
          color: `auto` for a result in colour if `vis` is [..., H, W, 3]; `gray` or
            `rgb` for one without or with three channels in any case.
          pad_to: (height, width) of the arrays that the network computes on, at least
            those of the images.  The result is that of the images alone, up to
            rounding, and takes the time of the larger size; see `ops.extent`.  It is
            not for the authors' network, nor for an ensemble.

        Returns:
          [scale * H, scale * W] or [scale * H, scale * W, 3], with N before it for a
          batch: uint8, uint16, or float32 in [0, 1].

        Raises:
          TypeError: an input is no image of these dtypes, or a range none of these.
          ValueError: shapes are not those above, differ, or are too small; or an option
            is unknown.
          UserError: the palette's file cannot be used.
        """
        return call.fuse(
            self.network,
            self.params,
            ir,
            vis,
            ir_range=ir_range,
            vis_range=vis_range,
            range_per=range_per,
            ir_palette=ir_palette,
            normalize=normalize,
            stretch=stretch,
            depth=depth,
            color=color,
            pad_to=pad_to,
        )

    @property
    def any_scale(self) -> bool:
        """Whether `at` takes every factor from 1.5 to 4."""
        network = self.network
        return isinstance(network, Student) and (
            network.config.upsampler == "continuous"
        )

    def at(self, scale: float) -> "Model":
        """Returns the same model, enlarging `scale` times.

        Args:
          scale: the model's own; or, if it takes any, from 1.5 to 4, which is rounded
            to four decimals.

        Raises:
          ValueError: it is another; the message is the part of a sentence that follows
            the model's name.
        """
        if scale == self.scale:
            return self
        if not self.any_scale:
            raise ValueError(f"has scale {self.scale}, not {scale:g}")
        if not LEAST_SCALE <= scale <= LARGEST_SCALE:
            raise ValueError(
                f"enlarges {LEAST_SCALE} to {LARGEST_SCALE} times, not {scale:g}"
            )
        units = in_units(scale)
        scale = units // UNIT if units % UNIT == 0 else units / UNIT
        network = self.network.clone(scale=scale)
        return dataclasses.replace(self, network=network, scale=scale)

    def for_reduced(self, scale: int) -> "Model":
        """Returns a teacher for pairs that are `scale` times smaller than its own."""
        return dataclasses.replace(self, network=for_reduced(self.network, scale))

    def on(self, device: jax.Device) -> "Model":
        """Returns the same model with its parameters on `device`, where it will run."""
        params = jax.device_put(self.params, device)
        return dataclasses.replace(self, params=params)

    def ensembled(self) -> "Model":
        """Returns a model whose pictures are means over the eight views of each pair.

        It takes eight times as long; see `ensemble`.  Call it after `astype`.

        Raises:
          UserError: the scale is not a whole number.  The sides of the picture are then
            rounded, and a mirrored view would be off by a part of a pixel.
        """
        if self.scale % 1:
            raise UserError(
                f"The mean over eight views needs a whole scale, not {self.scale:g}: "
                "give 2, 3 or 4, or leave it out."
            )
        return dataclasses.replace(self, network=Ensemble(self.network))

    def astype(self, dtype: str) -> "Model":
        """Returns the same model, computing in `dtype`, one of DTYPES.

        A student's parameters, softmax, last convolution and picture stay float32.

        Raises:
          ValueError: the dtype is none of DTYPES.
          UserError: the dtype is not float32 and the network is not a student.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        if isinstance(self.network, Student):
            network = self.network.clone(dtype=jnp.dtype(dtype))
            return dataclasses.replace(self, network=network)
        if dtype != "float32":
            kind = type(self.network).__name__.lower()
            raise UserError(
                f"A {kind} network computes only in float32, not in {dtype}: drop the "
                "dtype, or use a student."
            )
        return self


def _as_float32(leaf: np.ndarray) -> np.ndarray:
    """A parameter as it is, or of one that is stored in float16 the same numbers."""
    return leaf.astype(np.float32) if leaf.dtype == np.float16 else leaf


@functools.cache
def param_shapes(network: nn.Module) -> Mapping[str, Any]:
    """Shapes and dtypes of the parameters of a network that takes two images.

    They are traced once in a process, which takes tenths of a second.
    """
    image = jax.ShapeDtypeStruct((1, MIN_SIDE, MIN_SIDE, 1), jnp.float32)
    with jax.enable_x64(False):  # parameters are float32 for every caller
        # The key is not drawn, because drawing is a program to compile.
        key = jax.eval_shape(jax.random.key, 0)
        return jax.eval_shape(network.init, key, image, image)["params"]


def _build(config: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """Makes the network that a model directory's configuration describes.

    Returns:
      The network and its scale.

    Raises:
      ValueError, TypeError: the configuration is not one that training writes.
    """
    match config:
        case {"kind": "teacher", "alpha": alpha, "damping": damping}:
            context = config.get("context", 0.0)  # files of the paper's teacher lack it
            rule = alpha, damping, context
            known = {type(x) for x in rule} <= {int, float} and min(rule[1:]) >= 0
            if len(config) != 3 + ("context" in config) or not (
                known and math.isfinite(sum(rule))
            ):
                raise ValueError(f"not a teacher's configuration: {config}")
            return Teacher(*map(float, rule)), 1
        case {"kind": "student", "scale": int() as scale, "model": dict() as fields}:
            if len(config) != 3 or scale not in SCALES[1:]:
                raise ValueError(f"not a student's configuration: {config}")
            return Student(keys.from_mapping(StudentConfig, fields), scale), scale
        case {"kind": "released", "scale": int() as scale, "corner_skip": skip}:
            known = scale in SCALES[1:] and skip in CORNER_SKIPS
            if len(config) != 3 or not known:
                raise ValueError(f"not a released network's configuration: {config}")
            return Released(scale, skip), scale
    raise ValueError(f"not a configuration of a network: {config}")
