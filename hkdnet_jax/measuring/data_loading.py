"""Measures how fast pairs are loaded from each storage, and whether a step waits."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from data_pipelines import loader, pairs, prepare, records, scenes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring import train_step
from hkdnet_jax.measuring.measure import Row, Settings, Size, process_row, size_text

CROP = 128  # the paper's, in high-resolution pixels
_PAIRS = 24
_STANDS_FOR = 12_000  # pairs
_BATCHES = 6  # of a round
_QUALITY = 95
_STEP_SIDE = 16  # of the step's low-resolution crops, as in the runs of `lite`
_TINT = np.array([0.9, 1.0, 0.8], np.float32)  # so that colour costs what it does


class _AsMany:
    """A source of few pairs that stands for one of as many as the paper's data set.

    Grain's shuffle takes longer the fewer there are (1.1 ms a sample for 24 pairs, 0.05
    for 12,000), which would hide what is measured.

    Attributes:
      visits: number of pairs that were asked for, those made ahead included.
    """

    def __init__(self, source: loader.Source):
        self._source, self.visits = source, 0

    def __len__(self) -> int:
        return _STANDS_FOR

    def __getitem__(self, index: int) -> dict:
        self.visits += 1
        return self._source[index % len(self._source)]


def measure_data(settings: Settings, size: Size) -> list[Row]:
    """Times the loading of training crops of made pairs, and a step that is fed by it.

    The same pairs are stored as JPEG, as PNG, as records of TFDS that hold the JPEG
    files, and packed; `cached` are the JPEG files once they have been decoded.  Without
    it, nothing is kept in memory but by the operating system.  The storages are
    measured in turns.

    Args:
      settings: settings of the run; the step is a student's in phase 2, with 16x16
        low-resolution crops.
      size: (height, width) of the pairs, in pixels.

    Returns:
      One row for each storage: `cpu_seconds` of this process for a sample (median,
      minimum and maximum of the rounds), `samples_per_core_second`, `relative` to JPEG,
      `bytes_per_pair`, and what `train_step.fed` says of the step.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources, sizes = _stored(Path(folder), size)
        rounds: dict[str, list[float]] = {name: [] for name in sources}
        for number in range(settings.repeats):
            for name, source in sources.items():
                seconds = _sample_seconds(source, settings.batch, number)
                rounds[name].append(seconds)
        crop = settings.scale * _STEP_SIDE
        feeds = {
            name: _batches(source, crop, settings.batch, 0)
            for name, source in sources.items()
        }
        steps = train_step.fed(settings, (_STEP_SIDE, _STEP_SIDE), 2, feeds)
    process = process_row()
    rows = []
    for name, seconds in rounds.items():
        rows.append(
            {
                "size": size_text(size),
                "storage": name,
                "cpu_seconds": median(seconds),
                "cpu_seconds_min": min(seconds),
                "cpu_seconds_max": max(seconds),
                "samples_per_core_second": 1 / median(seconds),
                "relative": median(rounds["jpeg"]) / median(seconds),
                "bytes_per_pair": sizes[name],
            }
            | steps[name]
            | process
        )
    return rows


def _stored(folder: Path, size: Size) -> tuple[dict[str, _AsMany], dict[str, float]]:
    """The sources by storage, and how many bytes a pair takes in each."""
    _write_files(folder, size)
    flags = ["--dataset", "pairs", "--manual_dir", str(folder / "jpeg")]
    flags += ["--data_dir", str(folder / "tfds"), "--pack", str(folder / "packed")]
    with contextlib.redirect_stdout(sys.stderr):
        code = prepare.main(flags)
    if code:
        raise UserError("the made pairs could not be prepared; see above.")
    (config,) = (folder / "tfds" / "pairs").iterdir()
    found = {
        name: pairs.find_pairs([folder / name]) for name in ("jpeg", "png", "packed")
    }
    found["tfds"] = records.find_pairs(f"pairs/{config.name}", str(folder / "tfds"))
    sources = {
        name: loader.PairSource(found[name], CROP, cache_bytes=0)
        for name in ("jpeg", "png", "tfds", "packed")
    }
    sources["cached"] = loader.PairSource(found["jpeg"], CROP)
    for index in range(_PAIRS):
        sources["cached"][index]
    sizes = {name: _bytes(folder / name) / _PAIRS for name in found}
    sources = {name: _AsMany(source) for name, source in sources.items()}
    return sources, sizes | {"cached": 2.0 * size[0] * size[1]}


def _write_files(folder: Path, size: Size) -> None:
    """Writes the pairs as JPEG and, with the pixels of those, as PNG."""
    for number in range(_PAIRS):
        ir, vis = scenes.render(0, number, *size)
        colour = (vis[..., None] * _TINT).astype(np.uint8)
        for side, image in (("ir", ir), ("vis", colour)):
            for kind in ("jpeg", "png"):
                (folder / kind / side).mkdir(parents=True, exist_ok=True)
            file = folder / "jpeg" / side / f"{number:04}.jpg"
            Image.fromarray(image).save(file, quality=_QUALITY)
            with Image.open(file) as stored:
                stored.save(folder / "png" / side / f"{number:04}.png")


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _batches(source: _AsMany, crop: int, batch: int, seed: int) -> Iterator[dict]:
    return loader.train_batches(
        source, crop=crop, batch_size=batch, samples_per_epoch=1, seed=seed, threads=1
    )


def _sample_seconds(source: _AsMany, batch: int, seed: int) -> float:
    """CPU seconds of this process for a sample, over a few batches.

    Wall-clock time would say more about what else the machine does.
    """
    start = time.process_time()
    batches = _batches(source, CROP, batch, seed)
    before = source.visits
    for _ in range(_BATCHES):
        next(batches)
    batches.close()
    return (time.process_time() - start) / (source.visits - before)
