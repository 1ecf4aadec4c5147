"""Fuses two videos frame by frame, in the memory of a few frames.

While the devices work on some frames, the next ones are decoded on a thread and the
last ones encoded.
"""

import dataclasses
import itertools
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from hkdnet_jax import pretrained
from hkdnet_jax.common import levels
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import Picture
from hkdnet_jax.inference import matching, pictures, programs
from hkdnet_jax.inference.alignment import (
    PAIRS_LOOKED_AT,
    Alignment,
    NotAligned,
    estimate,
    most_common,
)
from hkdnet_jax.inference.inputs import Inputs, View, level_options, merge
from hkdnet_jax.inference.matching import Enlarger
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.streams import Stream
from hkdnet_jax.inference.video_sinks import CODECS, FileSink, FolderSink, open_file
from hkdnet_jax.inference.video_sources import (
    VIDEO_SUFFIXES,
    Frame,
    FrameFolder,
    Source,
    VideoFile,
    is_stream,
)
from hkdnet_jax.model_files.call import finish, gray_levels, is_flat
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.ops.places import enlarged

_SAMPLES = 32  # frames that levels are taken from
_APART = 10  # frames between those that the offset is found in
_WAITING = 2  # batches that are decoded ahead


@dataclasses.dataclass(frozen=True)
class Fused:
    """A fused video.

    Attributes:
      frames: the number of frames that were written.
      size: (height, width) of the frames, in pixels.
      rate: frames per second.
      notes: sentences on what was taken from the videos.
    """

    frames: int
    size: tuple[int, int]
    rate: Fraction
    notes: tuple[str, ...]


def fuse_video(
    model: Model,
    ir: Path | str,
    vis: Path | str,
    out: Path | str,
    *,
    ir_offset: float = 0.0,
    fps: float | Fraction | None = None,
    codec: str = "h264",
    **options: Any,
) -> Fused:
    """Fuses two videos of one scene into one.

    For each frame of the visible video the infrared frame that is nearest in time is
    taken, so that their rates may differ; the result ends with the shorter video, and
    has the sound of the visible file, or else of the infrared one.

    Args:
      model: see `Model.load`.
      ir: the infrared video: a file, a folder of numbered pictures (of any depth), the
        index of a camera, or an address such as rtsp://HOST/PATH.
      vis: the visible video, likewise.
      out: the file to write, whose suffix decides the container; or a folder for PNG
        frames.
      ir_offset: seconds by which the infrared video began after the visible one.
      fps: frames per second of both, instead of what they say; folders say 25.
      codec: `h264`, `h265` or `mjpeg`.
      **options: fields of `Options`: `color`, `align`, `match`, `ir_range`, `depth`
        and others. Ranges and offsets are taken once for the whole video.

    Raises:
      UserError: a video cannot be read or written, or does not fit into memory.
      ValueError: the codec is unknown.
    """
    if codec not in CODECS:
        raise ValueError(f"codec must be one of {tuple(CODECS)}, got {codec!r}")
    chosen = Options(**options)
    rate = None if fps is None else Fraction(fps).limit_denominator(1001)
    sources = open_source(ir, rate), open_source(vis, rate)
    video = _Video(model, *sources, chosen, ir_offset)
    out = Path(out)
    pairs = _in_step(*(source.frames() for source in sources), sources[0], ir_offset)
    if out.suffix.lower() not in VIDEO_SUFFIXES:
        sink = FolderSink(out)
        video.run(pairs, sink)
    else:
        if chosen.depth != "8":
            raise UserError(
                f"{out} holds 8 bits a level: give a folder for {chosen.depth}."
            )
        sounding = [s.name for s in sources[::-1] if isinstance(s, VideoFile)]
        arguments = (video.out_size, sources[1].rate, codec, _with_sound(sounding))
        out.parent.mkdir(parents=True, exist_ok=True)
        with open_file(out, *arguments) as sink:
            video.run(pairs, sink)
    return Fused(sink.count, video.out_size, sources[1].rate, tuple(video.notes))


def open_source(given: Path | str, rate: Fraction | None) -> Source:
    """Opens a video file, a folder of numbered pictures, a camera or an address.

    Args:
      given: a path; or a camera's index or an address, see `is_stream`.
      rate: frames per second, instead of what the source says.

    Raises:
      UserError: it cannot be read as a video, or a package is missing.
    """
    if is_stream(given):
        return Stream(given, rate)
    path = Path(given)
    if path.is_dir():
        return FrameFolder(path, rate)
    return VideoFile(path, rate)


def _with_sound(paths: Sequence[Path]) -> Path | None:
    """The first of some video files that has sound."""
    import av

    for path in paths:
        with av.open(str(path)) as container:
            if container.streams.audio:
                return path
    return None


def _in_step(
    ir: Iterator[Frame], vis: Iterator[Frame], source: Source, offset: float
) -> Iterator[tuple[Frame, Frame]]:
    """Yields each visible frame with the infrared frame that is nearest in time.

    Visible frames before the infrared video begins, or after it ends, are left out.
    """
    half = 0.5 / float(source.rate)
    last, following = next(ir, None), next(ir, None)
    if last is None:
        return
    for frame in vis:
        time = frame.time - offset
        while following is not None and (
            abs(following.time - time) <= abs(last.time - time)
        ):
            last, following = following, next(ir, None)
        if time < last.time - half - 1e-6:
            continue
        if following is None and time > last.time + half + 1e-6:
            return
        yield last, frame


def _simultaneous(
    ir: Source, vis: Source, offset: float
) -> Iterator[tuple[Picture, Picture]]:
    """Yields some pictures of one moment each: of cameras the first, of files more."""
    if None in (ir.count, vis.count):
        yield ir.samples(1)[0], vis.samples(1)[0]
        return
    pairs = _in_step(ir.frames(), vis.frames(), ir, offset)
    for first, second in itertools.islice(pairs, 0, PAIRS_LOOKED_AT * _APART, _APART):
        yield first.picture, second.picture


class _Video:
    """The program, the levels and the view of two videos."""

    def __init__(
        self,
        model: Model,
        ir: Source,
        vis: Source,
        options: Options,
        offset: float,
    ):
        """Takes the levels, the plan and the offset from samples; compiles.

        Raises:
          UserError: sizes differ without `match`, no offset can be told, or the program
            does not fit into memory.
        """
        self.names = ir.name, vis.name
        self.notes: list[str] = []
        self.total = None if None in (ir.count, vis.count) else min(ir.count, vis.count)
        samples = [source.samples(_SAMPLES) for source in (ir, vis)]
        self.options = self._take_ranges(samples, options)
        devices = jax.local_devices()[: options.devices]
        free = programs.budget(devices[0], options.max_memory)
        plan = None
        if ir.size != vis.size:
            plan = self._plan(ir.size, vis.size, model.scale)
            model = pretrained.teacher_for(model)
        self.model = model
        self.view = View(plan, Enlarger(devices, free))
        if options.align is not None:
            rig = self._find_rig(list(_simultaneous(ir, vis, offset)))
            self.view = dataclasses.replace(self.view, rig=rig)
            self.notes.append(f"The infrared video was off by {rig}.")
        size = plan.size if plan else ir.size
        self.out_size = tuple(enlarged(side, model.scale) for side in size)
        many = 64  # frames, of which the program takes as many as keep a device busy
        try:
            self.program = programs.choose(model, size, many, devices, free)
        except programs.DoesNotFit as error:
            raise UserError(
                f"{vis.name} is {size[1]}x{size[0]} pixels, which do not fit into "
                f"memory ({error}): make the videos smaller."
            ) from error

    def _take_ranges(self, samples: Sequence[Sequence], options: Options) -> Options:
        """Fixes the ranges that are left to `auto`, so that levels are steady."""
        ranges = {}
        for side, found in zip(("ir", "vis"), samples, strict=True):
            spec = level_options(options, side)
            if spec.spec != levels.AUTO or options.normalize != "unit":
                continue
            if any(picture.full != levels.BYTES for picture in found):
                whole = dataclasses.replace(spec, spec=levels.FULL)
                grays = (gray_levels(p.pixels, p.full, whole)[0] for p in found)
                ranges[f"{side}_range"] = levels.pooled(grays)
                self.notes.append(f"Levels of {side}: {ranges[f'{side}_range']}.")
        return dataclasses.replace(options, **ranges)

    def _plan(self, ir: tuple, vis: tuple, scale: float) -> matching.Plan:
        first, second = self.names
        both = f"{first} is {ir[1]}x{ir[0]} but {second} is {vis[1]}x{vis[0]}"
        if not self.options.match:
            raise UserError(f"{both}: give --match, or videos of one size.")
        try:
            plan = matching.plan(ir, vis, scale if scale > 1 else None)
        except ValueError as error:
            raise UserError(f"{both}, and {error}.") from error
        self.notes.append(matching.plan_note(plan, ir, vis))
        return plan

    def _find_rig(self, pairs: Sequence[tuple[Picture, Picture]]) -> Alignment:
        plain = dataclasses.replace(self.options, align=None, color="gray")
        found = []
        for ir, vis in pairs:
            inputs = merge(ir, vis, self.names, plain, self.view)
            try:
                found.append(
                    estimate(inputs.ir[..., 0], inputs.vis[..., 0], self.options.align)
                )
            except NotAligned:
                continue
        try:
            return most_common(found, len(pairs))
        except NotAligned as error:
            raise UserError(
                f"{self.names[0]} and {self.names[1]} cannot be aligned, because "
                f"{error}: register them, or leave out --align."
            ) from error

    def run(
        self, pairs: Iterator[tuple[Frame, Frame]], sink: FileSink | FolderSink
    ) -> None:
        """Fuses all pairs of frames into a sink; Ctrl-C ends the video there."""
        running = None
        with tqdm(total=self.total, unit="frame", file=sys.stderr) as bar:
            for inputs in _ahead(self._batches(pairs), _WAITING):
                fused = self._start(inputs)
                self._finish(running, sink, bar)
                running = inputs, fused
            self._finish(running, sink, bar)

    def _batches(self, pairs: Iterator[tuple[Frame, Frame]]) -> Iterator[list[Inputs]]:
        batch = []
        for ir, vis in pairs:
            batch.append(
                merge(ir.picture, vis.picture, self.names, self.options, self.view)
            )
            if len(batch) == self.program.batch:
                yield batch
                batch = []
        if batch:
            yield batch

    def _start(self, inputs: Sequence[Inputs]) -> jax.Array:
        irs, viss = np.stack([x.ir for x in inputs]), np.stack([x.vis for x in inputs])
        image = self.program.run(self.model.params, irs, viss)
        flat = np.array([is_flat(*pair) for pair in zip(irs, viss, strict=True)])
        coloured = any(x.colour is not None for x in inputs)
        depth = "float" if coloured else self.options.depth
        return finish(image, flat, self.options.stretch, depth)

    def _finish(
        self,
        running: tuple[Sequence[Inputs], jax.Array] | None,
        sink: FileSink | FolderSink,
        bar: tqdm,
    ) -> None:
        if running is None:
            return
        for inputs, fused in zip(running[0], np.asarray(running[1]), strict=True):
            sink.write(pictures.picture(fused[..., 0], inputs, self.options.depth))
            bar.update()


def _ahead(items: Iterator, waiting: int) -> Iterator:
    """Yields the items of an iterator that runs ahead on a thread.

    An error of the iterator is raised in its place.
    """
    ready: queue.Queue = queue.Queue(waiting)
    stop = threading.Event()

    def put(entry: tuple) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()
