"""Converts the weights of compared systems from the files of their authors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hkdnet_jax.baselines import cnn_fusion, densefuse, edsr, imdn, rcan
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.released.reading import read_checkpoint
from hkdnet_jax.released.tensors import Params, Tensors

_CONVERTERS: dict[str, Callable[[Tensors], tuple[dict[str, Any], Params]]] = {
    densefuse.NAME: densefuse.convert,
    cnn_fusion.NAME: cnn_fusion.convert,
    edsr.NAME: edsr.convert,
    rcan.NAME: rcan.convert,
    imdn.NAME: imdn.convert,
}
KINDS = tuple(_CONVERTERS)


def convert_file(kind: str, path: Path, scale: int | None, out: Path) -> dict[str, Any]:
    """Converts a file of weights and writes the model directory.

    Args:
      kind: one of KINDS.
      path: see `read_checkpoint`; one state dict.
      scale: see `convert`.
      out: the model directory.

    Returns:
      The configuration.

    Raises:
      UserError: the file does not fit, or the directory cannot be written.
    """
    remedy = f"give the weights of {kind}, as its authors saved them."
    arrays = read_checkpoint(path, (), remedy)
    try:
        config, params = convert(kind, arrays, scale)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    file_format.save_model(out, config, params)
    return config


def convert(
    kind: str, arrays: Mapping[str, np.ndarray], scale: int | None = None
) -> tuple[dict[str, Any], Params]:
    """Converts tensors to the configuration and the parameters of a model directory.

    Args:
      kind: one of KINDS.
      arrays: all tensors by name, float32.
      scale: the scale that the network must have; None for any.

    Raises:
      UserError: names, shapes, dtypes or the scale differ, or a value is not finite.
    """
    tensors = Tensors(arrays)
    attributes, params = _CONVERTERS[kind](tensors)
    differences = tensors.differences()
    if differences:
        raise UserError(
            f"its tensors are not those of {kind} ({differences}): give the file of "
            f"its authors, or another --kind."
        )
    if scale not in (None, attributes.get("scale")):
        given = attributes.get("scale", "1, a fusion")
        raise UserError(
            f"its network is of scale {given}, not {scale}: drop --scale {scale}."
        )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise UserError("it holds values that are not finite: copy it again.")
    return {"kind": kind, **attributes}, params
