"""Times exported models, and measures how far their pictures are from the first's."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from data_pipelines import scenes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.exported.running import open_file
from hkdnet_jax.losses import quality
from hkdnet_jax.measuring.measure import Row, Size, in_turns, size_text, timed

_SCENE = 3  # index of the made scene that is fused; calibration uses another seed
_SEED = 1


def measure_exported(files: Sequence[Path], size: Size, repeats: int) -> list[Row]:
    """Times exported files on a made scene, from float32 arrays to such an array.

    Args:
      files: see `running.open_file`; the first is what the others are compared with.
      size: (height, width) of the inputs, in pixels.
      repeats: number of timed calls of each file.

    Returns:
      A row for each file: `measure.in_turns`; `psnr` in dB and `difference`, the
      largest one, are to the picture of the first file, levels in [0, 1].

    Raises:
      UserError: a file cannot be used, or is of another scale than the first.
    """
    opened = [open_file(file) for file in files]
    for file, one in zip(files, opened, strict=True):
        if one.scale != opened[0].scale:
            raise UserError(
                f"{file} has scale {one.scale}, and {files[0]} has {opened[0].scale}: "
                "give files of one scale."
            )
    pair = made_pair(size)
    pictures: list[np.ndarray] = []
    runs = [partial(one.run, *pair) for one in opened]
    first = [timed(lambda run=run: pictures.append(run())) for run in runs]
    return [
        {
            "size": size_text(size),
            "file": file.name,
            "kind": one.kind,
            **row,
            "psnr": _psnr(picture, pictures[0]),
            "difference": float(np.abs(picture - pictures[0]).max()),
            "file_bytes": _bytes(file),
        }
        for file, one, picture, row in zip(
            files, opened, pictures, in_turns(runs, first, repeats), strict=True
        )
    ]


def made_pair(size: Size) -> list[np.ndarray]:
    """The made scene that programs are timed on, float32 [1, H, W, 1] in [0, 1]."""
    made = scenes.render(_SEED, _SCENE, *size)
    return [(image / np.float32(255))[None, :, :, None] for image in made]


def _psnr(picture: np.ndarray, reference: np.ndarray) -> float | None:
    """PSNR in dB; None if the pictures are equal."""
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return float(quality.decibels(jnp.asarray(error))) if error else None


def _bytes(file: Path) -> int:
    files = file.rglob("*.safetensors") if file.is_dir() else [file]
    return sum(one.stat().st_size for one in files)
