"""Fuses many pairs of files on all devices, within the memory that is free."""

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Sequence
from typing import TextIO

import jax

from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import programs, tiles
from hkdnet_jax.inference.groups import Shared, by_program, by_size
from hkdnet_jax.inference.inputs import Note, View
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.matching import Enlarger
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.pair import out_of_memory
from hkdnet_jax.inference.report import Listener, Report
from hkdnet_jax.inference.rig import find_rig
from hkdnet_jax.inference.work import Work
from hkdnet_jax.model_files.call import pads
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.runtime import memory


def fuse_files(
    model: Model,
    jobs: Sequence[Job],
    options: Options | None = None,
    lines: TextIO | None = None,
    others: Sequence[Job] = (),
) -> list[str]:
    """Fuses pairs of files, on all devices, with a progress bar on stderr.

    Pairs of the same size go to the devices together, and in a folder of many sizes
    those of similar sizes; the ones that need the most memory come first.  A picture is
    written completely or not at all; an existing file is replaced.

    Args:
      model: see `Model.load`; a pair of two sizes is fused by a teacher, which is this
        one if it is of scale 1.
      jobs: the pairs to fuse; their outputs are files in folders that exist.
      options: how to fuse them; the default options if None.
      lines: gets a line of JSON for each pair as soon as it is done.
      others: pairs of the same work that are not fused now, which have a say in the one
        offset of a fixed rig all the same, so that all parts of the work take it.

    Returns:
      One sentence for each pair that failed, in the order of `jobs`; all other pairs
      have been fused.

    Raises:
      UserError: the largest image does not fit into memory, or no offset can be told
        for a fixed rig.  Nothing has been written.
    """
    with Report(len(jobs), lines) as report:
        fuse_jobs(model, jobs, options or Options(), report, others)
    return [report.failures[job] for job in jobs if job in report.failures]


def fuse_jobs(
    model: Model,
    jobs: Sequence[Job],
    options: Options,
    report: Listener,
    others: Sequence[Job] = (),
) -> None:
    """Does the work of `fuse_files`, and tells a listener what becomes of each job.

    Raises:
      UserError: see `fuse_files`.
    """
    tiles.check(options.tile, model.scale)
    devices = jax.local_devices()[: options.devices]
    groups, failures = by_size(jobs, options, model.scale)
    # Measured once: later images reuse the memory that earlier ones leave allocated.
    free = programs.budget(devices[0], options.max_memory)
    view = View(enlarge=Enlarger(devices, free))
    teacher = functools.cache(lambda: pretrained.teacher_for(model))
    for job, sentence in failures.items():
        report.failed(job, sentence)
    if options.align_once and groups:
        every = sorted((*jobs, *others), key=lambda job: job.pair.ir)
        whole, _ = by_size(every, options, model.scale)
        view = dataclasses.replace(view, rig=find_rig(whole, options, view))
        text = f"The pairs of this rig are off by {view.rig}."
        report.say([Note(groups[0].jobs[0].pair.ir.parent, text)])
    waiting = deque(by_program(groups, options.tile, pads(model.network)))
    begun = False
    while waiting:
        shared = waiting.popleft()
        own = model if shared.groups[0].plan is None else teacher()
        height, width = shared.shape
        report.stage(f"compiling for {width}x{height}")
        work = _prepare(own, shared, options, view, devices, free)
        if isinstance(work, Work):
            work.do(report)
        elif shared.padded:  # without the padding they may fit
            waiting.extendleft(reversed(shared.apart()))
            continue
        elif not begun:
            raise UserError(work[shared.jobs[0]])
        else:
            for job, sentence in work.items():
                report.failed(job, sentence)
        begun = True


def _prepare(
    model: Model,
    shared: Shared,
    options: Options,
    view: View,
    devices: Sequence[jax.Device],
    free: int | None,
) -> Work | dict[Job, str]:
    """The work on some groups, or a sentence for each job if they do not fit."""
    size = shared.shape
    try:
        return Work(model, shared, options, view, devices, free)
    except programs.DoesNotFit as problem:
        return {job: _refusal(job, size, problem, options) for job in shared.jobs}
    except jax.errors.JaxRuntimeError as error:  # the TPU compiler refuses by itself
        if not memory.is_exhausted(error):
            raise
        return {job: out_of_memory(job.pair.ir, *size) for job in shared.jobs}


def _refusal(
    job: Job, size: tuple[int, int], problem: programs.DoesNotFit, options: Options
) -> str:
    """The sentence for an image that does not fit, with a remedy."""
    height, width = tiles.tile_shape(size, options.tile)
    side = int(math.sqrt(0.8 * problem.free / problem.needed * height * width))
    side -= side % tiles.MIN_TILE
    remedy = f"give --tile {side}" if side else "use a smaller model"
    needed, free = map(memory.format_bytes, (problem.needed, problem.free))
    available = "free"
    if options.max_memory is not None:
        available = "left of --max-memory"
        remedy += ", or raise the limit"
    tiled = "" if (height, width) == size else f" in tiles of {width}x{height}"
    return (
        f"{job.pair.ir} is {size[1]}x{size[0]} pixels, which take about "
        f"{needed}{tiled}, but only {free} are {available}: {remedy}."
    )
