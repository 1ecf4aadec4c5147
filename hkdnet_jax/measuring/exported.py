"""Times exported models, and measures how far their pictures are from the first's."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from data_pipelines import scenes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.exported.running import open_file
from hkdnet_jax.measuring.measure import Row, Size, size_text, statistics, timed

_SCENE = 3  # index of the made scene that is fused; calibration uses another seed
_SEED = 1


def measure_exported(files: Sequence[Path], size: Size, repeats: int) -> list[Row]:
    """Times exported files on a made scene, from float32 arrays to such an array.

    The files take turns, so that what else the machine does slows all of them alike.

    Args:
      files: see `running.open_file`; the first is what the others are compared with.
      size: (height, width) of the inputs, in pixels.
      repeats: number of timed calls of each file.

    Returns:
      A row for each file: `relative` is the median of its time over that of the first
      file in the same turn; `psnr` in dB and `difference`, the largest one, are to the
      picture of the first file, levels in [0, 1].

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
    pair = [_unit(image) for image in scenes.render(_SEED, _SCENE, *size)]
    pictures, first = [], []
    for one in opened:
        first.append(timed(lambda one=one: pictures.append(one.run(*pair))))
    turns = [
        [timed(lambda one=one: one.run(*pair)) for one in opened]
        for _ in range(repeats)
    ]
    rows = []
    for i, (file, one) in enumerate(zip(files, opened, strict=True)):
        seconds = [turn[i] for turn in turns]
        row = {"size": size_text(size), "file": file.name, "kind": one.kind}
        row |= statistics(seconds)
        row |= {
            "compile_seconds": max(0.0, first[i] - row["seconds"]),
            "relative": median(turn[i] / turn[0] for turn in turns),
            "psnr": _psnr(pictures[i], pictures[0]),
            "difference": float(np.abs(pictures[i] - pictures[0]).max()),
            "file_bytes": _bytes(file),
        }
        rows.append(row)
    return rows


def _unit(image: np.ndarray) -> np.ndarray:
    return (image / np.float32(255))[None, :, :, None]


def _psnr(picture: np.ndarray, reference: np.ndarray) -> float | None:
    """PSNR in dB; None if the pictures are equal."""
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return -10 * math.log10(error) if error else None


def _bytes(file: Path) -> int:
    files = file.rglob("*.safetensors") if file.is_dir() else [file]
    return sum(one.stat().st_size for one in files)
