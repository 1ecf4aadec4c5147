"""Fuses one registered pair of arrays with a trained model.

model = Model.load("runs/x2")
picture = fuse_pair(model, ir, vis)  # uint8 [scale * H, scale * W]
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float32, Shaped, UInt8

from hkdnet_jax.common import arrays
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import programs
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.runtime import memory

NORMALIZE = ("unit", "minmax")


def fuse_pair(
    model: Model,
    ir: np.ndarray,
    vis: np.ndarray,
    normalize: str = "unit",
    stretch: bool = False,
) -> UInt8[np.ndarray, "{model.scale*ir.shape[0]} {model.scale*ir.shape[1]}"]:
    """Fuses one registered pair; each new image size is compiled once per process.

    Args:
      model: see `Model.load`.
      ir: [H, W] uint8 or uint16; H and W are at least MIN_SIDE.
      vis: [H, W] uint8 or uint16; its dtype may differ from that of `ir`.
      normalize: `unit` divides each input by the largest value of its dtype;
        `minmax` maps the minimum and maximum of each input to 0 and 1.
      stretch: if True, the minimum and maximum of the output (before clipping) are
        mapped to 0 and 255, and a flat output to 0. If False, the output is clipped to
        [0, 1], which is mapped to 0 and 255.

    Returns:
      uint8 [scale * H, scale * W].

    Raises:
      ValueError: the shapes differ, are too small or not two-dimensional, or
        `normalize` is unknown.
      TypeError: an input has another dtype.
    """
    if ir.ndim != 2 or ir.shape != vis.shape or min(ir.shape) < MIN_SIDE:
        raise ValueError(
            f"fuse_pair takes two [H, W] images of one size, at least {MIN_SIDE} "
            f"pixels per side, got {ir.shape} and {vis.shape}"
        )
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize must be unit or minmax, got {normalize!r}")
    ir, vis = (prepare(image, normalize) for image in (ir, vis))
    image = _forward(model.network, model.params, ir, vis)
    return np.asarray(finish(image, stretch))[0, :, :, 0]


# Separate from the network, which takes seconds to compile and would otherwise be
# compiled again for other input dtypes and options.
def prepare(
    image: Shaped[np.ndarray, "h w"], normalize: str
) -> Float32[Array, "1 h w 1"]:
    """Maps uint8 or uint16 [H, W] to float32 [1, H, W, 1] in [0, 1]; see `fuse_pair`.

    Raises:
      TypeError: the image has another dtype.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"fuse_pair takes uint8 or uint16, got {image.dtype}")
    # NumPy divides exactly; XLA multiplies by the rounded 1/255 or 1/65535, so that 8
    # and 16 bits of the same content would give pictures that differ at a few pixels.
    levels = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    levels = jax.device_put(levels[None, :, :, None])
    return arrays.normalize_minmax(levels) if normalize == "minmax" else levels


_forward = jax.jit(programs.forward, static_argnames="network")


@partial(jax.jit, static_argnames="stretch")
def finish(image: Float32[Array, "n h w 1"], stretch: bool) -> UInt8[Array, "n h w 1"]:
    """Maps float32 [N, H, W, 1] to uint8; `fuse_pair` says what `stretch` does.

    Each image of the batch is stretched by itself.
    """
    return arrays.to_uint8(arrays.normalize_minmax(image) if stretch else image)


@contextlib.contextmanager
def explain_out_of_memory(path: Path | str, height: int, width: int) -> Iterator[None]:
    """Turns running out of memory inside the `with` block into a UserError.

    Args:
      path: the image in use, for the sentence.
      height: height of that image, in pixels.
      width: width of that image, in pixels.

    Raises:
      UserError: the block ran out of memory; all other errors pass unchanged.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not memory.is_exhausted(error):
            raise
        raise UserError(out_of_memory(path, height, width)) from error


def out_of_memory(path: Path | str, height: int, width: int) -> str:
    """The sentence for an image of this size that ran out of memory."""
    return (
        f"{path} is {width}x{height} pixels, for which there is not enough memory: "
        "crop it, or use a smaller model or a device with more memory."
    )
