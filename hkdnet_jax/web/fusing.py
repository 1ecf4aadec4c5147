"""Fuses one pair of files by the functions of `fuse`, and keeps what is shown of it."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from hkdnet_jax import metrics, pretrained
from hkdnet_jax.common import arrays, levels
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import encode, quantize
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.inference import pictures
from hkdnet_jax.inference.folder import fuse_jobs
from hkdnet_jax.inference.inputs import Inputs, Note
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.options import Options, read_ranges
from hkdnet_jax.inference.pair import explain_out_of_memory
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.web.worker import Stage

NONE = "none"  # the choice of no palette and of no alignment


@dataclass(frozen=True)
class Settings:
    """The fields of the page, each as `fuse` names it.

    Attributes:
      scale: output pixels per input pixel along each side.
      model: a name of `Models`.
      color: see `Options`.
      ir_range: as `--ir-range` takes it.
      vis_range: as `--vis-range` takes it.
      ir_palette: one of `palettes.NAMES`, or NONE.
      match: see `Options`.
      align: one of `alignment.MOTIONS`, or NONE.
    """

    scale: int
    model: str
    color: str
    ir_range: str
    vis_range: str
    ir_palette: str
    match: bool
    align: str

    def options(self) -> Options:
        """The same as `Options`, for levels in [0, 1].

        Raises:
          UserError: a range is none.
        """
        palette = None if self.ir_palette == NONE else self.ir_palette
        given = SimpleNamespace(
            ir_range=self.ir_range.strip() or levels.AUTO,
            vis_range=self.vis_range.strip() or levels.AUTO,
            range_per="folder",
            ir_palette=palette,
        )
        return Options(
            **read_ranges(given),
            depth="float",
            color=self.color,
            match=self.match,
            align=None if self.align == NONE else self.align,
        )


class _Told:
    """Keeps what `fuse_jobs` tells of one job; see `report.Listener`."""

    def __init__(self, stage: Stage):
        self.failures: dict[Job, str] = {}
        self.notes: list[Note] = []
        self.inputs: Inputs | None = None
        self.stage = stage

    def say(self, notes: Iterable[Note]) -> None:
        self.notes += notes

    def failed(self, job: Job, sentence: str) -> None:
        self.failures[job] = sentence

    def wrote(
        self, job: Job, inputs: Inputs, shape: tuple[int, ...], seconds: float
    ) -> None:
        del job, shape, seconds
        self.inputs = inputs


@dataclass(frozen=True, eq=False)
class Fused:
    """A fused pair.

    Attributes:
      unit: float32 [H, W] or [H, W, 3] in [0, 1].
      inputs: what was fused.
      notes: what a visitor should know about the files.
      seconds: from the first byte read to the last one fused.
    """

    unit: np.ndarray
    inputs: Inputs
    notes: list[Note]
    seconds: float

    @property
    def scale(self) -> int:
        """Output pixels per pixel of what was fused."""
        return self.unit.shape[0] // self.inputs.ir.shape[0]

    def png(self, depth: str) -> bytes:
        """The picture as a PNG file of `8` or `16` bits, as `fuse` writes it."""
        return encode(quantize(self.unit, depth), Path("fused.png"))


def fuse_one(
    model: Model, pair: Pair, options: Options, folder: Path, stage: Stage
) -> Fused:
    """Fuses the two files of a pair.

    Args:
      model: see `Models.get`.
      pair: the files.
      options: see `Settings.options`.
      folder: for a file in between, which is deleted.
      stage: is told what is being done.

    Raises:
      UserError: the pair cannot be fused.
    """
    begun = time.monotonic()
    job = Job(pair, folder / "fused.npy")
    told = _Told(stage)
    fuse_jobs(model, [job], options, told)
    if job in told.failures:
        raise UserError(told.failures[job])
    unit = np.load(job.out)
    job.out.unlink()
    return Fused(unit, told.inputs, told.notes, time.monotonic() - begun)


def bicubic(model: Model, fused: Fused, path: Path) -> np.ndarray | None:
    """What one would do without this network.

    The teacher of the model's style fuses the pair at the size that it has, and bicubic
    interpolation enlarges the result.

    Args:
      model: the one that fused the pair.
      fused: the pair.
      path: of its infrared file, for sentences.

    Returns:
      uint8 of the size of the result, or None if nothing was enlarged.

    Raises:
      UserError: there is not enough memory.
    """
    inputs = fused.inputs
    if fused.scale == 1:
        return None
    ir, vis = inputs.ir[..., 0], inputs.vis[..., 0]
    with explain_out_of_memory(path, *ir.shape):
        full = {"ir_range": levels.FULL, "vis_range": levels.FULL}
        teacher = pretrained.teacher_for(model).for_reduced(fused.scale)
        low = teacher(ir, vis, **full, depth="float")
        large = _enlarged(low[..., None], fused.scale)
    return pictures.picture(large, inputs, "8")


def visible(fused: Fused) -> np.ndarray:
    """The visible picture as uint8 of the size of the result."""
    large = _enlarged(fused.inputs.vis, fused.scale)
    return pictures.picture(large, fused.inputs, "8")


def scores(fused: Fused, shown: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """The paper's six metrics of some pictures of the pair.

    The two inputs are enlarged to the size of the result, bicubically, because a metric
    compares three images of one size.

    Args:
      fused: the pair.
      shown: uint8 pictures of the size of the result, by name.

    Returns:
      For each name, the metrics by their names; NaN where one has no value.
    """
    inputs = (fused.inputs.ir, fused.inputs.vis)
    sources = [quantize(_enlarged(x, fused.scale), "8") for x in inputs]
    return {
        name: {
            metric: float(value)
            for metric, value in metrics.score(*sources, levels.luma(picture)).items()
        }
        for name, picture in shown.items()
    }


def _enlarged(unit: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges float32 [H, W, 1] bicubically, to float32 [H, W] in [0, 1]."""
    if scale > 1:
        unit = np.asarray(arrays.resize_bicubic(jnp.asarray(unit[None]), scale))[0]
    return np.clip(unit[..., 0], 0, 1)
