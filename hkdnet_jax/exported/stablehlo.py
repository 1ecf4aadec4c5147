"""Programs as StableHLO, which jax alone runs on a CPU, an NVIDIA GPU or a TPU."""

from pathlib import Path

import jax

from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.exported import program
from hkdnet_jax.model_files.model import Model

SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def convert(model: Model) -> bytes:
    """Returns a model's program, as `jax.export.deserialize` reads it.

    Raises:
      UserError: flatbuffers is not installed.
    """
    with needs_extra("StableHLO", "stablehlo"):
        import flatbuffers  # noqa: F401  jax.export wants it, but does not bring it
    images = program.images()
    jitted = jax.jit(program.function(model))
    exported = jax.export.export(jitted, platforms=PLATFORMS)(images, images)
    return bytes(exported.serialize())


def read(file: Path) -> tuple[jax.export.Exported, int]:
    """Reads a program that `convert` made, and its scale.

    Raises:
      UserError: the file is damaged or holds something else, flatbuffers is not
        installed, or jax is older than the one that wrote the file.
    """
    with needs_extra("StableHLO", "stablehlo"):
        import flatbuffers  # noqa: F401
    try:
        exported = jax.export.deserialize(bytearray(file.read_bytes()))
        scale = program.scale_of(exported.fun_name)
        exported.mlir_module()  # parses all of it
    except Exception as error:
        # The reader checks nothing, so that other bytes break it anywhere.
        raise UserError(
            f"{file} is damaged, not StableHLO, or of a newer jax "
            f"({type(error).__name__}): export the model again."
        ) from error
    if scale is None:
        raise UserError(
            f"{file} is the StableHLO of another program, {exported.fun_name}: give a "
            "file that hkdnet export wrote."
        )
    return exported, scale
