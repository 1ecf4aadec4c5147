"""Measures how fast the networks fuse."""

import math
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.measuring import flops
from hkdnet_jax.measuring.measure import (
    Row,
    Settings,
    Size,
    line,
    process_row,
    size_text,
    statistics,
    timed,
)
from hkdnet_jax.model_files.model import Model, param_shapes
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher

# Operations are counted with the attention as the paper defines it: those of a kernel
# cannot be seen, and recomputation in the backward pass does not count.
COUNTED_ATTENTION = "materialized"


def measure_fuse(settings: Settings, size: Size) -> list[Row]:
    """Times `fuse_pair`, from uint8 arrays in host memory to a uint8 array there.

    The weights are random; the pairs of a batch are fused one after the other.

    Args:
      settings: settings of the run; scale 1 is the teacher, whatever the preset.
      size: (height, width) of the inputs, in pixels.

    Returns:
      One row; `seconds` are for all pairs of the batch.
    """
    model = random_model(settings)
    shape = (settings.batch, 2, *size)
    pairs = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def fuse_all() -> None:
        for ir, vis in pairs:
            fuse_pair(model, ir, vis)

    first = timed(lambda: fuse_pair(model, *pairs[0]))
    seconds = [timed(fuse_all) for _ in range(settings.repeats)]
    process = process_row()  # before the operations are counted, which takes memory
    middle = median(seconds)
    pixels = settings.batch * size[0] * size[1] * settings.scale**2
    row = {
        "size": size_text(size),
        "batch": settings.batch,
        **statistics(seconds),
        "compile_seconds": max(0.0, first - middle / settings.batch),
        "gflops": settings.batch * _forward_flops(model, size) / middle / 1e9,
        "images_per_second": settings.batch / middle,
        "megapixels_per_second": pixels / middle / 1e6,
    }
    return [row | process]


def fuse_fits(rows: list[Row]) -> list[Row]:
    """Fits the process's memory as a linear function of the pixels of an input.

    Returns:
      One fit with `bytes_per_input_pixel` and `fixed_bytes`; no fit if there are fewer
      than two sizes or the system does not report the memory.
    """
    pixels = [math.prod(map(int, row["size"].split("x"))) for row in rows]
    fit = line(pixels, [row["peak_rss_bytes"] for row in rows])
    if fit is None:
        return []
    return [dict(zip(("bytes_per_input_pixel", "fixed_bytes"), fit, strict=True))]


def random_model(settings: Settings) -> Model:
    """The teacher (scale 1) or the student of these settings, with random weights."""
    if settings.scale == 1:
        network = Teacher()
    else:
        network = Student(PRESETS[settings.preset], settings.scale)
    params = jax.device_put(random_params(param_shapes(network)))
    model = Model(network, params, settings.scale)
    return model.astype(settings.dtype)


def _forward_flops(model: Model, size: Size) -> int:
    network: nn.Module = model.network
    if isinstance(network, Student):
        network = network.clone(attention=COUNTED_ATTENTION)
    image = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32)
    return flops.count(network.apply, {"params": model.params}, image, image)


def random_params(shapes: Any) -> Any:
    """Small random numbers for every parameter, drawn by NumPy.

    Compiling an initialisation would take longer than the measurement.
    """
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: 0.03 * rng.standard_normal(x.shape, np.float32), shapes
    )
