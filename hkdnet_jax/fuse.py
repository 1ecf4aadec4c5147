"""Fuses infrared/visible pictures with a trained model: one pair, or two folders.

    python -m hkdnet_jax.fuse --ir ir.png --vis vis.png --out fused.png --model runs/x2
    python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused --model runs/x2

The same from Python:

    model = Model.load("runs/x2")
    picture = fuse_pair(model, ir, vis)  # uint8 [scale * H, scale * W]

Imports neither TensorFlow nor orbax.
"""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
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
from hkdnet_jax import compile_cache, images, weights
from hkdnet_jax.trained import MIN_SIDE, SCALES, Model

NORMALIZE = ("unit", "minmax")
_JPEG_QUALITY = 95


# --- one pair of arrays -------------------------------------------------------------


def fuse_pair(
    model: Model,
    ir: np.ndarray,
    vis: np.ndarray,
    normalize: str = "unit",
    stretch: bool = False,
) -> np.ndarray:
    """Fuses one registered pair; each new image size compiles once a process.

    Args:
      model: see `Model.load`.
      ir: [H, W] uint8 or uint16, H and W at least MIN_SIDE.
      vis: [H, W] uint8 or uint16, of its own depth.
      normalize: `unit` divides each input by the largest value of its dtype;
        `minmax` maps each input's own minimum and maximum to 0 and 1.
      stretch: maps the minimum and maximum of the output (before it is clipped) to 0
        and 255, a flat output to 0. Otherwise [0, 1] is mapped and the rest clipped.

    Returns:
      uint8 [scale * H, scale * W].

    Raises:
      ValueError: another shape or `normalize`.
      TypeError: another dtype.
    """
    if ir.ndim != 2 or ir.shape != vis.shape or min(ir.shape) < MIN_SIDE:
        raise ValueError(
            f"fuse_pair takes two [H, W] images of one size, at least {MIN_SIDE} "
            f"pixels a side, got {ir.shape} and {vis.shape}"
        )
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize must be unit or minmax, got {normalize!r}")
    ir, vis = (_prepare(image, normalize) for image in (ir, vis))
    image = _forward(model.network, model.params, ir, vis)
    return np.asarray(_finish(image, stretch))[0, :, :, 0]


# Apart from the network, so that neither the inputs' depths nor the options make the
# network, which takes seconds to compile, compile again.
def _prepare(image: np.ndarray, normalize: str) -> jax.Array:
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"fuse_pair takes uint8 or uint16, got {image.dtype}")
    # NumPy divides exactly; XLA multiplies with the rounded 1/255 or 1/65535, so that
    # 8 and 16 bits of the same content would give different pictures at a few pixels.
    levels = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    levels = jnp.asarray(levels[None, :, :, None])
    return images.normalize_minmax(levels) if normalize == "minmax" else levels


@partial(jax.jit, static_argnames="network")
def _forward(
    network: nn.Module, params: Mapping[str, Any], ir: jax.Array, vis: jax.Array
) -> jax.Array:
    image, _ = network.apply({"params": params}, ir, vis)
    return image


@partial(jax.jit, static_argnames="stretch")
def _finish(image: jax.Array, stretch: bool) -> jax.Array:
    return images.to_uint8(images.normalize_minmax(image) if stretch else image)


# --- files --------------------------------------------------------------------------


@contextlib.contextmanager
def explain_out_of_memory(path: Path | str, height: int, width: int) -> Iterator[None]:
    """Turns running out of memory inside the `with` block into a UserError.

    Args:
      path: the image at work, for the sentence.
      height: of that image, in pixels.
      width: likewise.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        # A CPU that runs out while the program runs says INTERNAL: Out of memory.
        exhausted = re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.I)
        if not exhausted and not isinstance(error, MemoryError):
            raise
        raise UserError(
            f"{path} is {width}x{height} pixels, for which the memory does not "
            "suffice: crop it, or use a smaller model or a device with more memory."
        ) from error


def fuse_files(
    model: Model,
    pair: Pair,
    out: Path,
    normalize: str = "unit",
    stretch: bool = False,
) -> tuple[int, int]:
    """Fuses a pair of files into the file `out`, whose suffix decides the format.

    The file appears whole or not at all; an existing one is replaced.

    Returns:
      (height, width) of the picture written.

    Raises:
      UserError: an input is broken or too small, their sizes differ, the memory does
        not suffice, or `out` cannot be written.
    """
    ir, vis = read_pair(pair)
    height, width = ir.shape
    if min(height, width) < MIN_SIDE:
        raise UserError(
            f"{pair.ir} is {width}x{height} pixels, too small to fuse: both sides "
            f"need at least {MIN_SIDE}."
        )
    with explain_out_of_memory(pair.ir, height, width):
        fused = fuse_pair(model, ir, vis, normalize, stretch)
        weights.write_atomically(out, encode(fused, out))
    return fused.shape


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


def fuse_folder(
    model: Model,
    pairs: Sequence[Pair],
    out: Path,
    normalize: str = "unit",
    stretch: bool = False,
) -> list[str]:
    """Fuses every pair to `out`/NAME.png, with a progress bar on stderr.

    Pairs of one size are done together, so that only one program is in use at a time.

    Returns:
      One sentence for each pair that failed, in the order of `pairs`; all the others
      are done.
    """
    sizes: dict[Pair, tuple[int, int]] = {}
    failures: dict[Pair, str] = {}
    for pair in pairs:
        try:
            sizes[pair] = image_size(pair.ir)
        except UserError as error:
            failures[pair] = str(error)
    for pair in tqdm(sorted(sizes, key=sizes.get), unit="pair", file=sys.stderr):
        try:
            fuse_files(model, pair, out / f"{pair.name}.png", normalize, stretch)
        except UserError as error:
            failures[pair] = str(error)
    return [failures[pair] for pair in pairs if pair in failures]


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
        "  python -m hkdnet_jax.fuse --ir data/ir --vis data/vis --out fused \\\n"
        "      --model runs/x2",
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
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --scale, the arguments of `load_model`."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="workdir of a training run, or a converted release",
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=SCALES,
        help="the scale that the model must have: 1 is a teacher's, 2 to 4 a "
        "student's (default: the model's own)",
    )


def _run(args: argparse.Namespace) -> int:
    folders = _check_paths(args.ir, args.vis, args.out)
    if folders:
        pairs, problems = match_folders(args.ir, args.vis)
        if not pairs and not problems:
            raise UserError(
                f"{args.ir} and {args.vis} hold no pictures: give folders with files "
                f"of equal stems ({', '.join(IMAGE_SUFFIXES)})."
            )
    model = load_model(args.model, args.scale)
    make_writable(args.out if folders else args.out.parent)
    options = {"normalize": args.normalize, "stretch": args.stretch}
    if not folders:
        pair = Pair(args.ir.stem, args.ir, args.vis)
        height, width = fuse_files(model, pair, args.out, **options)
        print(f"Wrote {args.out} ({width}x{height}).")
        return 0
    failures = fuse_folder(model, pairs, args.out, **options)
    print(f"Wrote {len(pairs) - len(failures)} fused pictures to {args.out}.")
    for sentence in problems + failures:
        print(f"error: {sentence.rstrip('.')}.", file=sys.stderr)
    return 1 if problems or failures else 0


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


def load_model(directory: Path | None, scale: int | None) -> Model:
    """Loads --model; UserError if there is none, or --scale is not its scale."""
    if directory is None:
        raise UserError(
            "This build ships no weights, so train a model (python -m hkdnet_jax.main "
            "--config=configs/student_x2.py:lite --workdir=DIR; see README.md) and "
            "pass its workdir as --model DIR."
        )
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
