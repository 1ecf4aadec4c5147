"""Fuses many pairs of files on all devices, within the memory that is free."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import encode, image_size
from hkdnet_jax.inference import programs, tiles
from hkdnet_jax.inference.inputs import Inputs, Note, read_inputs
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.pair import out_of_memory
from hkdnet_jax.model_files.call import finish, is_flat
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.runtime import memory


def fuse_files(
    model: Model, jobs: Sequence[Job], options: Options | None = None
) -> list[str]:
    """Fuses pairs of files, on all devices, with a progress bar on stderr.

    Pairs of the same size go to the devices together; those that need the most memory
    come first.  A picture is written completely or not at all; an existing file is
    replaced.

    Args:
      model: see `Model.load`.
      jobs: the pairs to fuse; their outputs are files in folders that exist.
      options: how to fuse them; the default options if None.

    Returns:
      One sentence for each pair that failed, in the order of `jobs`; all other pairs
      have been fused.

    Raises:
      UserError: the largest image does not fit into memory.  Nothing has been written.
    """
    options = options or Options()
    failures: dict[Job, str] = {}
    said: set[str] = set()
    groups = _by_size(jobs, options.tile, failures)
    # Measured once: later images reuse the memory that earlier ones leave allocated.
    free = programs.budget(jax.local_devices()[0], options.max_memory)
    with tqdm(total=len(jobs), unit="pair", file=sys.stderr) as bar:
        bar.update(len(failures))
        for number, group in enumerate(groups.values()):
            work = _prepare(model, group, options, free)
            if isinstance(work, _Work):
                failures |= work.do(bar, said)
                continue
            if number == 0:
                raise UserError(work[group[0]])
            failures |= work
            bar.update(len(group))
    return [failures[job] for job in jobs if job in failures]


def _prepare(
    model: Model, jobs: Sequence[Job], options: Options, free: int | None
) -> "_Work | dict[Job, str]":
    """The work on jobs of one size, or a sentence for each if they do not fit."""
    try:
        return _Work(model, jobs, options, free)
    except programs.DoesNotFit as problem:
        return {job: _refusal(job, problem, options) for job in jobs}
    except jax.errors.JaxRuntimeError as error:  # the TPU compiler refuses by itself
        if not memory.is_exhausted(error):
            raise
        return {
            job: out_of_memory(job.pair.ir, *image_size(job.pair.ir)) for job in jobs
        }


def _by_size(
    jobs: Sequence[Job], tile: int | None, failures: dict[Job, str]
) -> dict[tuple[int, int], list[Job]]:
    """Groups jobs by (height, width); the largest input of the network comes first.

    Jobs that cannot be fused get a sentence in `failures` instead.
    """
    groups: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        path = job.pair.ir
        try:
            height, width = image_size(path)
        except UserError as error:
            failures[job] = str(error)
            continue
        if min(height, width) < MIN_SIDE:
            failures[job] = (
                f"{path} is {width}x{height} pixels, too small to fuse: both sides "
                f"need at least {MIN_SIDE}."
            )
            continue
        groups.setdefault((height, width), []).append(job)

    def pixels(group: tuple[tuple[int, int], list[Job]]) -> tuple[int, int]:
        shape = group[0]
        return math.prod(tiles.tile_shape(shape, tile)), math.prod(shape)

    return dict(sorted(groups.items(), key=pixels, reverse=True))


class _Work:
    """The jobs of one image size, and the program that fuses them."""

    def __init__(
        self, model: Model, jobs: Sequence[Job], options: Options, free: int | None
    ):
        """Compiles the program.

        Raises:
          programs.DoesNotFit: every program takes more than `free` bytes.
        """
        self.model = model
        self.jobs = jobs
        self.options = options
        self.failures: dict[Job, str] = {}
        self.shape = image_size(jobs[0].pair.ir)
        self.tile = tiles.tile_shape(self.shape, options.tile)
        self.places = tiles.corners(self.shape, self.tile)
        tiled = len(self.places) > 1
        count = len(self.places) if tiled else len(jobs)  # one image in tiles at a time
        self.program = programs.choose(
            model,
            self.tile,
            count,
            jax.local_devices(),
            free,
            beside=self._host_bytes() if tiled else 0,
        )

    def _host_bytes(self) -> int:
        """Bytes of host memory for assembling an image from tiles."""
        tiled = len(self.places) * math.prod(self.tile)
        # All tiles, twice for a moment; the image's sum, weights and quotient.
        pixels = 2 * tiled + 3 * math.prod(self.shape)
        return 4 * pixels * self.model.scale**2

    def do(self, bar: tqdm, said: set[str]) -> dict[Job, str]:
        """Fuses all pairs; returns a sentence for each job that failed.

        Notes on what was read are printed unless they are in `said`, to which they are
        added.

        While the devices are working on a batch, the previous one is written and the
        next one is read.
        """
        at_once = self.program.batch if len(self.places) == 1 else 1
        running, counted = None, 0
        # One more round than there are batches, to finish the last batch.
        for first in range(0, len(self.jobs) + at_once, at_once):
            read = self._read(self.jobs[first : first + at_once])
            for inputs in read.values():
                _say_once(inputs.notes, bar, said)
            done = self._collect(running) if running else {}
            running = self._start(read) if read else None
            for job, picture in done.items():
                self._attempt([job], self._write, job, picture)
            bar.update(len(done))
            counted += len(done)
        bar.update(len(self.jobs) - counted)  # jobs that failed on the way
        return self.failures

    def _read(self, jobs: Sequence[Job]) -> dict[Job, Inputs]:
        read = {}
        for job in jobs:
            inputs = self._attempt([job], read_inputs, job.pair, self.options)
            if inputs is not None:
                read[job] = inputs
        return read

    def _start(self, read: Mapping[Job, Inputs]) -> tuple[list[Job], jax.Array] | None:
        jobs, inputs = list(read), read.values()
        pairs = ([x.ir for x in inputs], [x.vis for x in inputs])
        fused = self._attempt(jobs, self._fuse, *pairs)
        return None if fused is None else (jobs, fused)

    def _fuse(self, irs: Sequence[np.ndarray], viss: Sequence[np.ndarray]) -> jax.Array:
        params, run = self.model.params, self.program.run
        if len(self.places) == 1:
            image = run(params, np.stack(irs), np.stack(viss))
        else:
            pieces = [tiles.cut(x, self.places, self.tile) for (x,) in (irs, viss)]
            batch = self.program.batch
            parts = [
                np.asarray(run(params, *(x[first : first + batch] for x in pieces)))
                for first in range(0, len(self.places), batch)
            ]
            blended = tiles.blend(
                np.concatenate(parts)[..., 0], self.places, self.shape, self.model.scale
            )
            image = jnp.asarray(blended[None, :, :, None])
        flat = np.array([is_flat(*pair) for pair in zip(irs, viss, strict=True)])
        return finish(image, flat, self.options.stretch, self.options.depth)

    def _collect(self, running: tuple[list[Job], jax.Array]) -> dict[Job, np.ndarray]:
        jobs, fused = running
        pictures = self._attempt(jobs, np.asarray, fused)
        return (
            {} if pictures is None else dict(zip(jobs, pictures[..., 0], strict=True))
        )

    def _write(self, job: Job, picture: np.ndarray) -> None:
        atomic_files.write_atomically(job.out, encode(picture, job.out))

    def _attempt(self, jobs: Sequence[Job], function: Callable, *args: Any) -> Any:
        """Calls the function; notes a failure of these jobs and returns None for it."""
        try:
            return function(*args)
        except UserError as error:
            self.failures |= dict.fromkeys(jobs, str(error))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not memory.is_exhausted(error):
                raise
            self.failures |= {
                job: out_of_memory(job.pair.ir, *self.shape) for job in jobs
            }
        return None


def _say_once(notes: Sequence[Note], bar: tqdm, said: set[str]) -> None:
    """Prints notes above the bar; one that was said of another file is left out."""
    for note in notes:
        if note.text not in said:
            said.add(note.text)
            bar.write(f"note: {note.path}: {note.text}", file=sys.stderr)


def _refusal(job: Job, problem: programs.DoesNotFit, options: Options) -> str:
    """The sentence for an image that does not fit, with a remedy."""
    shape = image_size(job.pair.ir)
    height, width = tiles.tile_shape(shape, options.tile)
    side = int(math.sqrt(0.8 * problem.free / problem.needed * height * width))
    side -= side % tiles.MIN_TILE
    remedy = f"give --tile {side}" if side else "use a smaller model"
    needed, free = map(memory.format_bytes, (problem.needed, problem.free))
    available = "free"
    if options.max_memory is not None:
        available = "left of --max-memory"
        remedy += ", or raise the limit"
    tiled = "" if (height, width) == shape else f" in tiles of {width}x{height}"
    return (
        f"{job.pair.ir} is {shape[1]}x{shape[0]} pixels, which take about "
        f"{needed}{tiled}, but only {free} are {available}: {remedy}."
    )
