"""The flags --model and --scale, and the model that they mean."""

import argparse

from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError, either
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import LARGEST_SCALE, LEAST_SCALE, SCALES, STYLES
from hkdnet_jax.runtime.precision import DTYPES


def add_model_arguments(
    parser: argparse.ArgumentParser, any_scale: bool = False
) -> None:
    """Adds --model and --scale, the arguments of `load_model`.

    Args:
      parser: gets the flags.
      any_scale: whether --scale takes more than whole numbers.
    """
    parser.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        help=f"{either(pretrained.names())}, which come with the package; or the "
        "workdir of a training run, a converted release, weights that export wrote, or "
        "hf://OWNER/NAME on the Hugging Face Hub (default: the one that comes with the "
        "package for --scale)",
    )
    accepted = {"type": int, "choices": SCALES}
    more = ""
    if any_scale:
        accepted = {"type": _scale, "metavar": "1|2|3|4|NUMBER"}
        more = f"; any number from {LEAST_SCALE} to {LARGEST_SCALE} for a model that "
        more += "configs/student_any.py trained"
    parser.add_argument(
        "--scale",
        help="output pixels per input pixel along each side: 2 to 4, or 1 for a "
        f"teacher, which fuses pairs that are already high-resolution{more} (default: "
        "that of the model in DIR)",
        **accepted,
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


def add_denoise_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --denoise, the fourth argument of `load_model`."""
    parser.add_argument(
        "--denoise",
        type=float,
        default=0.0,
        metavar="0..1",
        help="how much noise, blur and compression of the cameras is taken out; at "
        "--scale 2 and 4, by the balanced models that come with the package (default: "
        "0, nothing)",
    )


def number(text: str) -> float:
    """Reads a number, an int if it is whole, for a flag's `type`."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    return int(value) if value.is_integer() else value


def _scale(text: str) -> float:
    value = number(text)
    if value != 1 and not LEAST_SCALE <= value <= LARGEST_SCALE:
        raise argparse.ArgumentTypeError(
            f"{text} is not 1 or a number from {LEAST_SCALE} to {LARGEST_SCALE}"
        )
    return value


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


def load_model(
    name: str | None,
    scale: float | None,
    style: str = STYLES[0],
    denoise: float = 0.0,
) -> Model:
    """Loads the model that --model, --scale, --style and --denoise stand for.

    Raises:
      UserError: there is no such model, or --scale is not its scale.
    """
    if denoise:
        return pretrained.denoising(name, scale, style, denoise)
    directory = pretrained.locate(name, scale, style)
    model = pretrained.load_directory(directory)
    if scale is None:
        return model
    try:
        return model.at(scale)
    except ValueError as error:
        kind = "teacher" if model.scale == 1 else "student"
        wanted = f"of scale {scale}"
        if scale not in SCALES:
            wanted = "that takes any scale, which configs/student_any.py trains"
        raise UserError(
            f"--scale {scale} does not fit {directory}, a {kind} of scale "
            f"{model.scale}: drop --scale, or give a model {wanted}."
        ) from error
