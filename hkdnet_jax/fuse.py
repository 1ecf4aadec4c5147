"""Fuses infrared/visible pictures with a trained model: one pair, or two folders.

    python -m hkdnet_jax.fuse --ir ir.png --vis vis.png --out fused.png --scale 2
    python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused --model runs/x2

The same of arrays is `hkdnet_jax.inference.fuse_pair`.  Imports neither TensorFlow nor
orbax.
"""

import argparse
import contextlib
import dataclasses
import io
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from data_pipelines.errors import UserError, exit_code
from data_pipelines.pairs import (
    IMAGE_SUFFIXES,
    Pair,
    image_size,
    match_folders,
    read_pair,
)
from hkdnet_jax import compile_cache, memory, pretrained, programs, tiles, weights
from hkdnet_jax.inference import (
    NORMALIZE,
    finish,
    is_out_of_memory,
    out_of_memory,
    prepare,
)
from hkdnet_jax.trained import MIN_SIDE, SCALES, Model

_JPEG_QUALITY = 95


# --- files --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options:
    """How pictures are fused.

    Attributes:
      normalize: see `fuse_pair`.
      stretch: see `fuse_pair`.
      tile: longest side in pixels of the tiles that larger inputs are cut into; None
        for whole images.
      max_memory: bytes; see `programs.budget`.
    """

    normalize: str = "unit"
    stretch: bool = False
    tile: int | None = None
    max_memory: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """A pair of files and the file that its fused picture is written to.

    Attributes:
      pair: the inputs.
      out: its suffix decides the format.
    """

    pair: Pair
    out: Path


def fuse_files(
    model: Model, jobs: Sequence[Job], options: Options | None = None
) -> list[str]:
    """Fuses pairs of files, on all devices, with a progress bar on stderr.

    Pairs of one size go to the devices together, first those that need most memory.  A
    picture appears whole or not at all; an existing one is replaced.

    Args:
      model: see `Model.load`.
      jobs: what to do; their outputs are files in folders that exist.
      options: the defaults when None.

    Returns:
      One sentence for each pair that failed, in the order of `jobs`; all the others are
      done.

    Raises:
      UserError: the memory does not suffice for the largest image.  Nothing is written.
    """
    options = options or Options()
    failures: dict[Job, str] = {}
    groups = _by_size(jobs, options.tile, failures)
    # Asked once: what smaller images leave allocated, the next ones use again.
    free = programs.budget(jax.local_devices()[0], options.max_memory)
    with tqdm(total=len(jobs), unit="pair", file=sys.stderr) as bar:
        bar.update(len(failures))
        for number, group in enumerate(groups.values()):
            work = _prepare(model, group, options, free)
            if isinstance(work, _Work):
                failures |= work.do(bar)
                continue
            if number == 0:
                raise UserError(work[group[0]])
            failures |= work
            bar.update(len(group))
    return [failures[job] for job in jobs if job in failures]


def _prepare(
    model: Model, jobs: Sequence[Job], options: Options, free: int | None
) -> "_Work | dict[Job, str]":
    """The work on jobs of one size; a sentence for each if the memory is too small."""
    try:
        return _Work(model, jobs, options, free)
    except programs.DoesNotFit as problem:
        return {job: _refusal(job, problem, options) for job in jobs}
    except jax.errors.JaxRuntimeError as error:  # TPU's compiler refuses by itself
        if not is_out_of_memory(error):
            raise
        return {
            job: out_of_memory(job.pair.ir, *image_size(job.pair.ir)) for job in jobs
        }


def _by_size(
    jobs: Sequence[Job], tile: int | None, failures: dict[Job, str]
) -> dict[tuple[int, int], list[Job]]:
    """Jobs by (height, width), those first of which most pixels go to a device at once.

    What cannot be fused gets a sentence in `failures`.
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
    """The jobs of one image size, and the program that does them."""

    def __init__(
        self, model: Model, jobs: Sequence[Job], options: Options, free: int | None
    ):
        """Compiles.

        Raises:
          programs.DoesNotFit: it takes more than `free` bytes.
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
        """What an image takes beside the networks when it is put together of tiles."""
        tiled = len(self.places) * math.prod(self.tile)
        # All tiles twice for a moment; the image's sum, weights, and quotient.
        pixels = 2 * tiled + 3 * math.prod(self.shape)
        return 4 * pixels * self.model.scale**2

    def do(self, bar: tqdm) -> dict[Job, str]:
        """Fuses; returns a sentence for each job that failed.

        While the devices are at work on some images, those before are written and the
        next ones read.
        """
        at_once = self.program.batch if len(self.places) == 1 else 1
        running, counted = None, 0
        # One round more than there are batches, to finish the last one.
        for first in range(0, len(self.jobs) + at_once, at_once):
            read = self._read(self.jobs[first : first + at_once])
            done = self._collect(running) if running else {}
            running = self._start(read) if read else None
            for job, picture in done.items():
                self._attempt([job], self._write, job, picture)
            bar.update(len(done))
            counted += len(done)
        bar.update(len(self.jobs) - counted)  # those that failed before
        return self.failures

    def _read(self, jobs: Sequence[Job]) -> dict[Job, tuple[np.ndarray, np.ndarray]]:
        read = {job: self._attempt([job], self._read_one, job) for job in jobs}
        return {job: pair for job, pair in read.items() if pair}

    def _read_one(self, job: Job) -> tuple[np.ndarray, ...]:
        prepared = (prepare(x, self.options.normalize) for x in read_pair(job.pair))
        return tuple(np.asarray(x[0]) for x in prepared)

    def _start(
        self, read: Mapping[Job, tuple[np.ndarray, np.ndarray]]
    ) -> tuple[list[Job], jax.Array] | None:
        jobs = list(read)
        fused = self._attempt(jobs, self._fuse, *zip(*read.values(), strict=True))
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
            whole = tiles.blend(
                np.concatenate(parts)[..., 0], self.places, self.shape, self.model.scale
            )
            image = jnp.asarray(whole[None, :, :, None])
        return finish(image, self.options.stretch)

    def _collect(self, running: tuple[list[Job], jax.Array]) -> dict[Job, np.ndarray]:
        jobs, fused = running
        pictures = self._attempt(jobs, np.asarray, fused)
        return (
            {} if pictures is None else dict(zip(jobs, pictures[..., 0], strict=True))
        )

    def _write(self, job: Job, picture: np.ndarray) -> None:
        weights.write_atomically(job.out, encode(picture, job.out))

    def _attempt(self, jobs: Sequence[Job], function: Callable, *args: Any) -> Any:
        """What the function returns; None where it fails for these jobs."""
        try:
            return function(*args)
        except UserError as error:
            self.failures |= dict.fromkeys(jobs, str(error))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.failures |= {
                job: out_of_memory(job.pair.ir, *self.shape) for job in jobs
            }
        return None


def _refusal(job: Job, problem: programs.DoesNotFit, options: Options) -> str:
    """The sentence for an image that does not fit, with a way out."""
    shape = image_size(job.pair.ir)
    height, width = tiles.tile_shape(shape, options.tile)
    side = int(math.sqrt(0.8 * problem.free / problem.needed * height * width))
    side -= side % tiles.MIN_TILE
    way_out = f"give --tile {side}" if side else "use a smaller model"
    needed, free = map(memory.format_bytes, (problem.needed, problem.free))
    given, also = "free", ""
    if options.max_memory is not None:
        given, also = "left of --max-memory", ", or raise the limit"
    whole = "" if (height, width) == shape else f" in tiles of {width}x{height}"
    return (
        f"{job.pair.ir} is {shape[1]}x{shape[0]} pixels, which take about "
        f"{needed}{whole}, but only {free} are {given}: {way_out}{also}."
    )


def encode(image: np.ndarray, out: Path) -> bytes:
    """The content of an image file in the format that `out`'s suffix stands for."""
    kind = Image.registered_extensions()[out.suffix.lower()]
    options = {"quality": _JPEG_QUALITY} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    try:
        Image.fromarray(image).save(buffer, kind, **options)
    except OSError as error:
        # A JPEG file has at most 65,535 pixels a side.
        height, width = image.shape
        raise UserError(
            f"{out} cannot hold {width}x{height} pixels ({error}): give a name that "
            "ends in .png."
        ) from error
    return buffer.getvalue()


# --- the command --------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if every pair was fused."""
    args = _parser().parse_args(argv)
    compile_cache.enable()
    return exit_code(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    suffixes = " ".join(IMAGE_SUFFIXES)
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.fuse",
        description="Fuse registered infrared and visible pictures into one gray "
        "picture of\n1, 2, 3 or 4 times their size. Pictures need at least "
        f"{MIN_SIDE} pixels a side.",
        epilog="example:\n"
        "  python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused --scale 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        add(
            f"--{name}",
            type=Path,
            required=True,
            metavar="FILE_OR_DIR",
            help=f"{what} picture ({suffixes}; 8 or 16 bit, gray or colour; colour "
            "is read as its luma), or a folder of them: files of equal stem in both "
            "folders are a pair",
        )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE_OR_DIR",
        help="8-bit gray picture to write, its suffix decides the format; for "
        "folders, the folder that gets a STEM.png for each pair; what is there "
        "already is replaced",
    )
    add_model_arguments(parser)
    add(
        "--normalize",
        choices=NORMALIZE,
        default=NORMALIZE[0],
        help="unit keeps absolute levels; minmax stretches each input by its own "
        "minimum and maximum (default: unit)",
    )
    add(
        "--stretch",
        action="store_true",
        help="map each output's minimum and maximum to 0 and 255",
    )
    add(
        "--max-memory",
        metavar="SIZE",
        help="such as 4GB or 800MB: pictures that would take more are refused before "
        "the work starts; of the process on a CPU, else of each device (default: what "
        "is free)",
    )
    add(
        "--tile",
        type=int,
        metavar="N",
        help="cut pictures larger than NxN pixels into overlapping tiles that are "
        "fused one by one and blended; only for those too large for the memory, as "
        "the network then sees no more than a tile",
    )
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --scale, the arguments of `load_model`."""
    parser.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        help=f"{pretrained.STUDENT} or {pretrained.TEACHER}, which come with the "
        "package; else the workdir of a training run, or a converted release (default: "
        "what comes with the package for --scale)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=SCALES,
        help="output pixels per input pixel along each side: 2 to 4, or 1 for a "
        "teacher, which fuses what is high-resolution already (default: that of the "
        "model in DIR)",
    )


def _run(args: argparse.Namespace) -> int:
    folders = _check_paths(args.ir, args.vis, args.out)
    options = _options(args)
    pairs, problems = [Pair(args.ir.stem, args.ir, args.vis)], []
    if folders:
        pairs, problems = match_folders(args.ir, args.vis)
        if not pairs and not problems:
            raise UserError(
                f"{args.ir} and {args.vis} hold no pictures: give folders with files "
                f"of equal stems ({', '.join(IMAGE_SUFFIXES)})."
            )
    model = load_model(args.model, args.scale)
    make_writable(args.out if folders else args.out.parent)
    jobs = [
        Job(pair, args.out / f"{pair.name}.png" if folders else args.out)
        for pair in pairs
    ]
    failures = fuse_files(model, jobs, options)
    if folders:
        print(f"Wrote {len(jobs) - len(failures)} fused pictures to {args.out}.")
    elif not failures:
        height, width = (model.scale * side for side in image_size(args.ir))
        print(f"Wrote {args.out} ({width}x{height}).")
    if args.tile is not None:
        print(_tiling(jobs, args.tile))
    for sentence in problems + failures:
        print(f"error: {sentence.rstrip('.')}.", file=sys.stderr)
    return 1 if problems or failures else 0


def _options(args: argparse.Namespace) -> Options:
    if args.tile is not None and args.tile < tiles.MIN_TILE:
        raise UserError(
            f"--tile {args.tile} is too small: give at least {tiles.MIN_TILE} pixels."
        )
    limit = None
    if args.max_memory is not None:
        try:
            limit = memory.parse_bytes(args.max_memory)
        except ValueError as error:
            raise UserError(f"--max-memory: {error}.") from error
    return Options(args.normalize, args.stretch, args.tile, limit)


def _tiling(jobs: Sequence[Job], tile: int) -> str:
    """What --tile meant for these pictures."""
    counts = []
    for job in jobs:
        with contextlib.suppress(UserError):  # a broken file, reported by itself
            shape = image_size(job.pair.ir)
            counts.append(len(tiles.corners(shape, tiles.tile_shape(shape, tile))))
    cut = [count for count in counts if count > 1]
    if not cut:
        return f"No input is larger than {tile}x{tile} pixels: none was cut into tiles."
    return (
        f"{len(cut)} of {len(jobs)} inputs cut into {sum(cut)} tiles of at most "
        f"{tile}x{tile} pixels, blended where they overlap."
    )


def _check_paths(ir: Path, vis: Path, out: Path) -> bool:
    """Whether these are folders; UserError unless the three fit together."""
    for flag, path in (("--ir", ir), ("--vis", vis)):
        if not path.exists():
            raise UserError(f"{flag} {path} does not exist.")
        if out.exists() and out.samefile(path):
            raise UserError(
                f"--out {out} is also the input {flag}, which would be overwritten: "
                "give another name."
            )
    folders = ir.is_dir()
    if folders != vis.is_dir():
        file, folder = (vis, ir) if folders else (ir, vis)
        raise UserError(
            f"{file} is a file but {folder} is a folder: give two files or two folders."
        )
    is_image = out.suffix.lower() in IMAGE_SUFFIXES
    if folders and (out.is_file() or (is_image and not out.exists())):
        raise UserError(
            f"--out {out} is a file but the inputs are folders: give a folder."
        )
    if not folders and out.is_dir():
        raise UserError(
            f"--out {out} is a folder but the inputs are files: give a file such as "
            f"{out / ir.stem}.png."
        )
    if not folders and not is_image:
        raise UserError(
            f"--out {out} has none of the suffixes {', '.join(IMAGE_SUFFIXES)}: end "
            "the name with one of them, which decides the format."
        )
    return folders


def load_model(name: str | None, scale: int | None) -> Model:
    """Loads --model; UserError if there is none, or --scale is not its scale."""
    directory = pretrained.locate(name, scale)
    model = Model.load(directory)
    if scale not in (None, model.scale):
        kind = "teacher" if model.scale == 1 else "student"
        raise UserError(
            f"--scale {scale} does not fit {directory}, a {kind} of scale "
            f"{model.scale}: drop --scale, or give a model of scale {scale}."
        )
    return model


def make_writable(folder: Path) -> None:
    """Makes `folder`, so that a bad one is found before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(
            f"{folder} is no folder that can be written to: choose another --out."
        )


if __name__ == "__main__":
    sys.exit(main())
