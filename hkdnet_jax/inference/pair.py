"""Fuses one registered pair of arrays, and says what runs out of memory.

model = Model.load("runs/x2")
picture = fuse_pair(model, ir, vis)  # uint8 [scale * H, scale * W]
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.runtime import memory


def fuse_pair(
    model: Model,
    ir: Any,
    vis: Any,
    normalize: str = "unit",
    stretch: bool = False,
    **options: Any,
) -> np.ndarray:
    """Fuses one registered pair, or a batch of them: `model(ir, vis, ...)`.

    Args:
      model: see `Model.load`.
      ir: see `Model.__call__`, which lists what else it accepts and raises.
      vis: see `Model.__call__`.
      normalize: see `Model.__call__`.
      stretch: see `Model.__call__`.
      **options: the other options of `Model.__call__`.

    Returns:
      [scale * H, scale * W] of [H, W], uint8 unless another depth is asked for.
    """
    return model(ir, vis, normalize=normalize, stretch=stretch, **options)


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
