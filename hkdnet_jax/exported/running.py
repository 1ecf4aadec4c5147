"""Opens an exported file of any format, to run it on this machine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.exported import onnx_file, program, stablehlo
from hkdnet_jax.model_files import call
from hkdnet_jax.model_files.model import Model


@dataclasses.dataclass(frozen=True)
class Opened:
    """An exported model that is ready to run.

    Attributes:
      kind: `jax` for weights, which run in the usual form; `stablehlo`; or `onnx` with
        its arithmetic, such as `onnx int8`.
      scale: output pixels per input pixel along each side.
      run: maps float32 [B, H, W, 1] images in [0, 1] to the fused ones; see `program`.
    """

    kind: str
    scale: int
    run: Callable[[np.ndarray, np.ndarray], np.ndarray]


def open_file(path: Path) -> Opened:
    """Opens an exported file, or a model directory.

    Raises:
      UserError: it is missing or damaged, or holds something else.
    """
    if path.suffix == onnx_file.SUFFIX and path.is_file():
        return _open_onnx(path)
    if path.suffix == stablehlo.SUFFIX and path.is_file():
        exported, scale = stablehlo.read(path)
        compiled = jax.jit(exported.call)
        return Opened("stablehlo", scale, lambda *pair: np.asarray(compiled(*pair)))
    model = Model.load(path)

    @jax.jit
    def fuse(ir: jax.Array, vis: jax.Array) -> jax.Array:
        image = call.forward(model.network, model.params, ir, vis)
        return jnp.clip(image, 0.0, 1.0)

    return Opened("jax", model.scale, lambda *pair: np.asarray(fuse(*pair)))


def _open_onnx(path: Path) -> Opened:
    session, metadata = onnx_file.read(path)

    def run(*pair: np.ndarray) -> np.ndarray:
        named = dict(zip(program.INPUTS, pair, strict=True))
        return session.run([program.OUTPUT], named)[0]

    return Opened(f"onnx {metadata['dtype']}", int(metadata["scale"]), run)
