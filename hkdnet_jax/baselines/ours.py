"""Our own models as methods: the teacher's fusion, and the students.

A student learns from the teacher's picture of the high-resolution pair, so at scale 1
the teacher stands for it.
"""

from collections.abc import Callable
from functools import cache, partial

import jax
import numpy as np

from hkdnet_jax import pretrained
from hkdnet_jax.baselines.types import Image, Method
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import call
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import SCALES

_forward = partial(jax.jit, static_argnames="network")(call.forward)


def teacher() -> Callable[[Image, Image], Image]:
    """The fusion of the teacher that comes with the package."""
    return partial(_fuse, pretrained.load(1))


def lite() -> Method:
    """The students that come with the package, and the teacher at scale 1."""
    load = cache(pretrained.load)

    def fuse(ir: Image, vis: Image, scale: int) -> Image:
        if scale not in SCALES:
            raise UserError(f"lite cannot enlarge {scale} times: give one of {SCALES}.")
        return _fuse(load(scale), ir, vis)

    return fuse


def lite_any(weights: Weights) -> Method:
    """The student of every factor from 1.5 to 4, and the teacher at scale 1.

    Raises:
      UserError: it is neither in the folder of weights nor in the package.
    """
    own = weights.folder and weights.folder / pretrained.ANY
    try:
        model = pretrained.load(own if own and own.exists() else pretrained.ANY)
    except UserError as error:
        if own and own.exists():
            raise
        raise UserError(
            f"{pretrained.ANY} has no weights here: train configs/student_any.py with "
            f"--workdir=DIR/{pretrained.ANY}, and give --weights DIR."
        ) from error

    def fuse(ir: Image, vis: Image, scale: float) -> Image:
        try:
            return _fuse(pretrained.load(1) if scale == 1 else model.at(scale), ir, vis)
        except ValueError as error:
            raise UserError(f"{pretrained.ANY} {error}: give another scale.") from error

    return fuse


def _fuse(model: Model, ir: Image, vis: Image) -> Image:
    batches = (image[None, :, :, None] for image in (ir, vis))
    return np.asarray(_forward(model.network, model.params, *batches))[0, ..., 0]
