"""What the page and its API do: files and settings in, pictures and sentences out.

Nothing here knows how it is shown; every problem is a UserError for a visitor's eyes.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hkdnet_jax.common import levels
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import quantize, read
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.inference.inputs import Note, level_options, take_ranges
from hkdnet_jax.inference.jobs import Collected, Job, collect_jobs
from hkdnet_jax.inference.options import Options
from hkdnet_jax.model_files.call import gray_levels
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.web import archives, fusing
from hkdnet_jax.web.fusing import Fused, Settings
from hkdnet_jax.web.limits import Limits
from hkdnet_jax.web.models import Models
from hkdnet_jax.web.wording import public
from hkdnet_jax.web.worker import Stage, Worker

# Is told what is being done, and which share of all has been done.
Show = Callable[[str, float], None]
_STEPS = 5  # reading, compiling, fusing, comparing, scoring
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """What is shown of a fused pair.

    Attributes:
      fused: the pair.
      before: uint8, what it is compared with, of the size of the result.
      what: what `before` is.
      notes: sentences.
      scores: see `fusing.scores`; empty if they were not asked for.
    """

    fused: Fused
    before: np.ndarray
    what: str
    notes: list[str]
    scores: dict[str, dict[str, float]]


@dataclass
class Batch:
    """What became of an archive.

    Attributes:
      files: PNG files by their names in the archive that goes back.
      notes: sentences on what was recognised.
      problems: a sentence for each pair that could not be fused.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def say(self, notes: Sequence[Note], names: Mapping[Path, str]) -> None:
        """Adds notes on files; one that was said of another file is left out."""
        for note in notes:
            if note.text not in self._said:
                self._said.add(note.text)
                self.notes.append(public(f"{note.path}: {note.text}", names))


class Service:
    """Fuses what visitors send, within limits, one pair after another."""

    def __init__(self, models: Models, limits: Limits, folder: Path):
        """Starts the thread that works.

        Args:
          models: what can be chosen.
          limits: see `Limits`.
          folder: for files in between.
        """
        self.models = models
        self.limits = limits
        self._folder = folder
        self._worker = Worker(limits.seconds)

    def preview(self, path: Path, side: str, settings: Settings) -> np.ndarray:
        """A picture as the network will see it, with the levels that are chosen.

        Args:
          path: the file.
          side: `ir` or `vis`.
          settings: the fields of the page.

        Returns:
          uint8 [H, W], or [H, W, 3] of a visible picture in colour.
        """
        with _for_visitors({path: path.name}):
            self.limits.check_pictures([path])
            picture = read(path, 0)
            options = level_options(settings.options(), side)
            gray, found = gray_levels(picture.pixels, picture.full, options)
            pixels = picture.pixels if side == "vis" else gray
            return quantize(levels.to_unit(pixels, found), "8")

    def fuse(
        self, ir: Path, vis: Path, settings: Settings, scored: bool, show: Show
    ) -> Result:
        """Fuses a pair, and compares the result with bicubic enlargement.

        Args:
          ir: the infrared file.
          vis: the visible file.
          settings: the fields of the page.
          scored: whether metrics are asked for.
          show: see `Show`.
        """
        names = {ir: ir.name, vis: vis.name}
        if ir.name == vis.name:
            names = {ir: f"infrared {ir.name}", vis: f"visible {vis.name}"}
        with _for_visitors(names):
            self.limits.check_pictures([ir, vis])
            options, taken = take_ranges([Pair("", ir, vis)], settings.options())

            def work(stage: Stage) -> Result:
                model = self.models.get(settings.model, settings.scale)
                fused = self._fuse(model, Pair(ir.stem, ir, vis), options, stage)
                stage("comparing with bicubic enlargement")
                plain = fusing.bicubic(model, fused, ir)
                before, what = plain, "bicubic enlargement"
                if plain is None:
                    before, what = fusing.visible(fused), "the visible picture"
                scores = {}
                if scored:
                    stage("computing the metrics")
                    shown = {"this picture": quantize(fused.unit, "8")}
                    shown |= {} if plain is None else {what: plain}
                    scores = fusing.scores(fused, shown)
                said = [f"{note.path}: {note.text}" for note in fused.notes]
                said = [public(text, names) for text in (*taken, *said)]
                return Result(fused, before, what, said, scores)

            return self._worker.do(work, lambda text, n: show(text, n / _STEPS))

    def batch(self, archive: Path, settings: Settings, depth: str, show: Show) -> Batch:
        """Fuses all pairs of a ZIP archive.

        Args:
          archive: the file.
          settings: the fields of the page.
          depth: bits of the PNG files, `8` or `16`.
          show: see `Show`.
        """
        with self._new_folder() as folder:
            names = {archive: archive.name, folder: archive.name}
            with _for_visitors(names):
                show("unpacking", 0)
                collected = self._unpacked(archive, folder)
            done = Batch()
            fitting = [job for job in collected.jobs if self._fits(job, names, done)]
            pairs = [job.pair for job in fitting]
            with _for_visitors(names):
                options, taken = take_ranges(pairs, settings.options())
            done.notes += [public(text, names) for text in (*collected.notes, *taken)]
            done.problems += [public(f"{x}.", names) for x in collected.problems]
            for number, pair in enumerate(pairs):
                told = _one_of(len(pairs), number, pair.name, show)
                try:
                    with _for_visitors(names):
                        fused = self._fuse_later(pair, settings, options, told)
                        done.files[f"{pair.name}.png"] = fused.png(depth)
                except UserError as error:
                    done.problems.append(str(error))
                else:
                    done.say(fused.notes, names)
            return done

    def close(self) -> None:
        """Ends the thread."""
        self._worker.close()

    def _unpacked(self, archive: Path, folder: Path) -> Collected:
        """The pairs of an archive, unpacked to a folder."""
        limits = self.limits
        archives.unpack(archive, folder, limits.unpacked, limits.pairs)
        collected = collect_jobs(*archives.sides(folder), folder / "fused")
        if len(collected.jobs) > limits.pairs:
            raise UserError(
                f"{archive} holds {len(collected.jobs)} pairs, more than the "
                f"{limits.pairs} that this page takes: split it."
            )
        return collected

    def _fits(self, job: Job, names: Mapping[Path, str], done: Batch) -> bool:
        """Whether a pair is within the limits; if not, that is a problem."""
        try:
            with _for_visitors(names):
                self.limits.check_pictures([job.pair.ir, job.pair.vis])
        except UserError as error:
            done.problems.append(str(error))
            return False
        return True

    def _fuse_later(
        self,
        pair: Pair,
        settings: Settings,
        options: Options,
        told: Callable[[str, int], None],
    ) -> Fused:
        def work(stage: Stage) -> Fused:
            model = self.models.get(settings.model, settings.scale)
            return self._fuse(model, pair, options, stage)

        return self._worker.do(work, told)

    def _fuse(self, model: Model, pair: Pair, options: Options, stage: Stage) -> Fused:
        with self._new_folder() as folder:
            return fusing.fuse_one(model, pair, options, folder, stage)

    @contextlib.contextmanager
    def _new_folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            yield Path(name)


def _one_of(
    count: int, number: int, name: str, show: Show
) -> Callable[[str, int], None]:
    """Tells of one of several pairs; its share of the whole is what lies before it."""
    place = f"pair {number + 1} of {count}, {name}"
    return lambda text, _: show(f"{place}: {text}", number / count)


@contextlib.contextmanager
def _for_visitors(names: Mapping[Path, str]) -> Iterator[None]:
    """Rewrites the sentence of a UserError, and makes one of any other error.

    Args:
      names: see `wording.public`.
    """
    try:
        yield
    except UserError as error:
        raise UserError(public(str(error), names)) from None
    except Exception as error:
        _log.exception("a request failed")
        raise UserError(
            "The server failed at this, and its log says why: try other pictures or "
            "settings."
        ) from error
