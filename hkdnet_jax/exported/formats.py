"""The formats of export: what makes each, and what each file is called."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from hkdnet_jax import pretrained
from hkdnet_jax.common import keys
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.exported import onnx_file, stablehlo
from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.presets import PRESETS, StudentConfig

SUFFIXES = {
    "safetensors": file_format.SAFETENSORS,
    "npz": file_format.NPZ,
    "stablehlo": stablehlo.SUFFIX,
    "onnx": onnx_file.SUFFIX,
}


def convert(directory: Path, kind: str, dtype: str = "float32") -> bytes:
    """Returns the bytes of an exported model.

    Args:
      directory: a model directory or exported weights, see `pretrained.locate`.
      kind: a key of SUFFIXES.
      dtype: see `onnx_file.convert`; of weights float32, or float16, by which they are
        rounded to 11 bits; float32 for StableHLO.

    Raises:
      UserError: there is no model, it is damaged, it cannot be exported that way, or a
        package of an extra is missing.
    """
    model = pretrained.load_directory(directory)  # which checks it
    if model.any_scale and kind in ("stablehlo", "onnx"):
        raise UserError(
            f"{directory} takes any scale, of which {kind} programs hold none: export "
            "a student of one scale, or the weights as safetensors or npz."
        )
    if kind == "stablehlo":
        return stablehlo.convert(model)
    config, params = file_format.load_model(directory)
    about = metadata(directory, config)
    if kind == "onnx":
        try:
            return onnx_file.convert(model, dtype, about)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from error
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    to_bytes = {
        "safetensors": file_format.to_safetensors,
        "npz": file_format.to_npz,
    }[kind]
    return to_bytes(config, params, about)


def metadata(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of an export beside format, configuration and checksum.

    Returns:
      `scale`; `preset`, one of PRESETS or `teacher`, `released` or `custom`; `metrics`,
      `pretrained.card` as JSON; `config`, the configuration as JSON.
    """
    preset = config["kind"]
    if preset == "student":
        sizes = keys.from_mapping(StudentConfig, config["model"])
        # What the skip follows is the teacher's, and no size.
        sizes = dataclasses.replace(sizes, skip_context=0.0)
        known = (name for name, one in PRESETS.items() if one == sizes)
        preset = next(known, "custom")
    return {
        "scale": str(config.get("scale", 1)),
        "preset": preset,
        "metrics": json.dumps(pretrained.card(directory)),
        "config": json.dumps(config),
    }
