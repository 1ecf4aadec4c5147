"""The jobs that share a program, and that program."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import encode
from hkdnet_jax.inference import pictures, programs, tiles
from hkdnet_jax.inference.groups import Shared
from hkdnet_jax.inference.inputs import Inputs, View, read_inputs
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.pair import out_of_memory
from hkdnet_jax.inference.report import Listener
from hkdnet_jax.model_files.call import finish, is_flat
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.ops.extent import Extent, stack
from hkdnet_jax.ops.places import enlarged
from hkdnet_jax.runtime import memory


class _Running(NamedTuple):
    """A batch that the devices work on.

    Attributes:
      inputs: what was read of each job.
      fused: [N, H, W, 1]; it may still be being computed.
    """

    inputs: Mapping[Job, Inputs]
    fused: jax.Array


class Work:
    """The jobs of some groups, and the program that fuses them."""

    def __init__(
        self,
        model: Model,
        shared: Shared,
        options: Options,
        view: View,
        devices: Sequence[jax.Device],
        free: int | None,
    ):
        """Compiles the program.

        Args:
          model: of the groups.
          shared: the groups.
          options: see `Options`.
          view: how the two pictures of a pair become one view, apart from the plan.
          devices: the devices that share the work.
          free: bytes that the program may take, see `programs.budget`.

        Raises:
          programs.DoesNotFit: every program takes more than `free` bytes.
        """
        self.model = model
        self.shared = shared
        self.options = options
        self.view = view
        self.groups = {job: group for group in shared.groups for job in group.jobs}
        self.tile = tiles.tile_shape(shared.shape, options.tile, model.scale)
        self.places = tiles.corners(shared.shape, self.tile, model.scale)
        tiled = len(self.places) > 1
        # One image in tiles at a time.
        count = len(self.places) if tiled else len(shared.jobs)
        beside = self._host_bytes() if tiled else 0
        self.program = programs.choose(
            model, self.tile, count, devices, free, beside, shared.padded
        )

    def _host_bytes(self) -> int:
        """Bytes of host memory for assembling an image from tiles."""
        tiled = len(self.places) * math.prod(self.tile)
        # All tiles, twice for a moment; the image's sum, weights and quotient.
        pixels = 2 * tiled + 3 * math.prod(self.shared.shape)
        return round(4 * pixels * self.model.scale**2)

    def do(self, report: Listener) -> None:
        """Fuses all pairs, and reports each.

        While the devices are working on a batch, the previous one is written and the
        next one is read.
        """
        report.stage("fusing")
        at_once = self.program.batch if len(self.places) == 1 else 1
        jobs, running = self.shared.jobs, None
        # One more round than there are batches, to finish the last batch.
        for first in range(0, len(jobs) + at_once, at_once):
            begun = time.perf_counter()
            read = self._read(jobs[first : first + at_once], report)
            done = self._collect(running, report) if running else {}
            last, running = running, self._start(read, report) if read else None
            for job, fused in done.items():
                inputs = last.inputs[job]
                self._attempt([job], report, self._write, job, fused, inputs)
                if job not in report.failures:
                    shape = self._out_shape(inputs)
                    seconds = (time.perf_counter() - begun) / len(done)
                    report.wrote(job, inputs, shape, seconds)

    def _out_shape(self, inputs: Inputs) -> tuple[int, ...]:
        scale = self.model.scale
        size = tuple(enlarged(side, scale) for side in inputs.ir.shape[:2])
        return size if inputs.colour is None else (*size, 3)

    def _read(self, jobs: Sequence[Job], report: Listener) -> dict[Job, Inputs]:
        read = {}
        for job in jobs:
            view = dataclasses.replace(self.view, plan=self.groups[job].plan)
            inputs = self._attempt(
                [job], report, read_inputs, job.pair, self.options, view
            )
            if inputs is not None:
                report.say(inputs.notes)
                read[job] = inputs
        return read

    def _start(self, read: Mapping[Job, Inputs], report: Listener) -> _Running | None:
        fused = self._attempt(read, report, self._fuse, list(read.values()))
        return None if fused is None else _Running(read, fused)

    def _fuse(self, inputs: Sequence[Inputs]) -> jax.Array:
        params, run = self.model.params, self.program.run
        irs, viss = [x.ir for x in inputs], [x.vis for x in inputs]
        extent = None
        if self.shared.padded:
            sizes = Extent.of(irs)
            arrays = (stack(x, self.shared.shape) for x in (irs, viss))
            image = run(params, *arrays, sizes)
            extent = sizes.scaled(self.model.scale)
        elif len(self.places) == 1:
            image = run(params, np.stack(irs), np.stack(viss))
        else:
            pieces = [tiles.cut(x, self.places, self.tile) for (x,) in (irs, viss)]
            batch = self.program.batch
            parts = [
                np.asarray(run(params, *(x[first : first + batch] for x in pieces)))
                for first in range(0, len(self.places), batch)
            ]
            parts = np.concatenate(parts)[..., 0]
            whole = tiles.blend(parts, self.places, self.shared.shape, self.model.scale)
            image = jnp.asarray(whole[None, :, :, None])
        flat = np.array([is_flat(*pair) for pair in zip(irs, viss, strict=True)])
        # Colour is attached before levels are rounded.
        coloured = any(x.colour is not None for x in inputs)
        depth = "float" if coloured else self.options.depth
        return finish(image, flat, self.options.stretch, depth, extent)

    def _collect(self, running: _Running, report: Listener) -> dict[Job, np.ndarray]:
        jobs = list(running.inputs)
        fused = self._attempt(jobs, report, np.asarray, running.fused)
        if fused is None:
            return {}
        shapes = (self._out_shape(inputs) for inputs in running.inputs.values())
        return {
            job: image[: shape[0], : shape[1], 0]
            for job, image, shape in zip(jobs, fused, shapes, strict=True)
        }

    def _write(self, job: Job, fused: np.ndarray, inputs: Inputs) -> None:
        picture = pictures.picture(fused, inputs, self.options.depth)
        atomic_files.write_atomically(job.out, encode(picture, job.out))
        if self.options.compare:
            out = job.out.with_name(f"{job.out.stem}_compare.png")
            sheet = pictures.sheet(picture, inputs)
            atomic_files.write_atomically(out, encode(sheet, out))

    def _attempt(
        self, jobs: Sequence[Job], report: Listener, function: Callable, *args: Any
    ) -> Any:
        """Calls the function; reports a failure of these jobs and returns None."""
        try:
            return function(*args)
        except UserError as error:
            sentences = {job: str(error) for job in jobs}
        except programs.DoesNotFit as problem:
            needed, free = map(memory.format_bytes, (problem.needed, problem.free))
            sentences = {
                job: f"{job.pair.ir} needs about {needed} to be enlarged, but only "
                f"{free} are free: make it smaller first."
                for job in jobs
            }
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not memory.is_exhausted(error):
                raise
            sentences = {
                job: out_of_memory(job.pair.ir, *self.groups[job].size) for job in jobs
            }
        for job, sentence in sentences.items():
            report.failed(job, sentence)
        return None
