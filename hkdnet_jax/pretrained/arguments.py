"""The flags --model and --scale, and the model that they mean."""

import argparse

from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import SCALES, STYLES
from hkdnet_jax.runtime.precision import DTYPES


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --scale, the arguments of `load_model`."""
    parser.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        help=f"{pretrained.STUDENT} or {pretrained.TEACHER}, which come with the "
        "package, or the same with _vivid appended, or lite_camera; or the workdir of "
        "a training run, a converted release, weights that export wrote, or "
        "hf://OWNER/NAME on the Hugging Face Hub (default: the one that comes with the "
        "package for --scale)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=SCALES,
        help="output pixels per input pixel along each side: 2 to 4, or 1 for a "
        "teacher, which fuses pairs that are already high-resolution (default: that of "
        "the model in DIR)",
    )


def add_style_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --style, the third argument of `load_model`."""
    parser.add_argument(
        "--style",
        choices=STYLES,
        default=STYLES[0],
        help="how the models that come with the package fuse: balanced, as in the "
        "paper, or vivid, with hot targets and visible texture at full contrast "
        f"(default: {STYLES[0]})",
    )


def add_computing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype and --tta, which `set_up` reads."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="bfloat16 is meant for a student on a GPU or TPU, where it is faster; "
        "pictures differ by about one level of 255; a CPU gains nothing from it "
        "(default: float32)",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="fuse each pair in eight views, mirrored and turned, and take their mean, "
        "for eight times the time",
    )


def set_up(model: Model, args: argparse.Namespace) -> Model:
    """The model, computing as the flags of `add_computing_arguments` say.

    Raises:
      UserError: see `Model.astype`.
    """
    model = model.astype(args.dtype)
    return model.ensembled() if args.tta else model


def load_model(name: str | None, scale: int | None, style: str = STYLES[0]) -> Model:
    """Loads the model that --model, --scale and --style stand for.

    Raises:
      UserError: there is no such model, or --scale is not its scale.
    """
    directory = pretrained.locate(name, scale, style)
    model = pretrained.load_directory(directory)
    if scale not in (None, model.scale):
        kind = "teacher" if model.scale == 1 else "student"
        raise UserError(
            f"--scale {scale} does not fit {directory}, a {kind} of scale "
            f"{model.scale}: drop --scale, or give a model of scale {scale}."
        )
    return model
