"""The models that come with the package, and the names that `--model` accepts.

Each is a model directory in this folder; README.md is their model card.
"""

import dataclasses
import os
import re
from pathlib import Path

import jax

from hkdnet_jax.common.errors import UserError, either
from hkdnet_jax.model_files import hub
from hkdnet_jax.model_files.ensemble import Ensemble
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import LARGEST_SCALE, LEAST_SCALE, SCALES, STYLES
from hkdnet_jax.models.student import Student

TEACHER, STUDENT = "teacher", "lite"
ANY = "lite_any"  # the student of every factor from 1.5 to 4
NAMES = (STUDENT, TEACHER)
# What the package's models learned: the first of STYLES, another one, or the first from
# pairs as real cameras take them.
FAMILIES = (*STYLES, "camera")
_HERE = Path(__file__).parent
_STUDENT_SCALES = SCALES[1:]


def _name(kind: str, family: str) -> str:
    return kind if family == FAMILIES[0] else f"{kind}_{family}"


# Name -> the kind of network, and what it learned.  There is no teacher of cameras.
_NAMED = {
    _name(kind, family): (kind, family)
    for family in FAMILIES
    for kind in NAMES
    if (kind, family) != (TEACHER, FAMILIES[-1])
}


def locate(model: str | None, scale: float | None, style: str = STYLES[0]) -> Path:
    """Returns the model directory that a model and a scale stand for.

    Args:
      model: one of NAMES, `lite_vivid`, `teacher_vivid`, `lite_camera`, or ANY; or else
        the path of a directory (`./lite` for one of that name) or of exported
        weights, or an address `hf://OWNER/NAME`, which is fetched; None for the model
        that comes with the package for `scale` and `style`.
      scale: the requested scale, or None for the model's own.
      style: one of STYLES, in which the package's models fuse.

    Raises:
      UserError: there are several such models, or none, or it cannot be fetched.
    """
    if style != STYLES[0] and model not in (None, *NAMES):
        raise UserError(
            f"Style {style} chooses among the package's models, and {model} is another "
            "one: leave the style out."
        )
    if model is None:
        if scale is None:
            raise UserError(
                "Give --scale 2, 3 or 4 (or 1 for pairs that are high-resolution "
                "already) to use the models that come with the package, or --model DIR."
            )
        model = TEACHER if scale == 1 else STUDENT
        if scale not in SCALES and style == STYLES[0]:
            model = ANY
    kind, family = _NAMED.get(model, (None, style))
    if model in NAMES:
        family = style
    if kind == TEACHER:
        return _shipped(_name(TEACHER, family))
    if kind == STUDENT:
        return _student(family, scale)
    if model == ANY:
        return _shipped(ANY)
    return hub.fetch(model) if hub.is_address(model) else Path(model)


def _student(family: str, scale: float | None) -> Path:
    name = _name(STUDENT, family)
    held = list(students(family)) or _STUDENT_SCALES
    if scale not in held:
        given = "without --scale" if scale is None else f"at --scale {scale}"
        has_any = name == STUDENT and (_HERE / ANY).is_dir()
        more = f", or the model for every scale, {ANY}" if has_any else ""
        raise UserError(
            f"{name} cannot be used {given}: give --scale {either(held)}{more}."
        )
    return _shipped(f"{name}_x{scale}")


def names() -> tuple[str, ...]:
    """The names that `locate` takes of models that the package holds, but for ANY."""
    return tuple(
        name
        for name, (kind, family) in _NAMED.items()
        if ((_HERE / name).is_dir() if kind == TEACHER else students(family))
    )


def students(family: str) -> dict[int, Path]:
    """Scale -> directory of the students of a family, as far as they are shipped."""
    name = _name(STUDENT, family)
    found = {scale: _HERE / f"{name}_x{scale}" for scale in _STUDENT_SCALES}
    return {scale: path for scale, path in found.items() if path.is_dir()}


def _shipped(name: str) -> Path:
    directory = _HERE / name
    if name == ANY and not directory.is_dir():
        raise UserError(
            f"The package holds no model {ANY} yet, the one for every scale: train it "
            "with configs/student_any.py and give its folder as the model, or give a "
            "scale of 1, 2, 3 or 4."
        )
    if not directory.is_dir():
        raise UserError(
            f"The package holds no model {name} yet: train one with "
            "configs/teacher_vivid.py, a student from such a teacher, or one with "
            "data.degradation=camera, and give its folder as the model; or use lite."
        )
    return directory


def card(directory: Path) -> dict[str, dict[str, float]]:
    """What the model card says that a model of the package reaches.

    Returns:
      Set of test pairs -> `psnr` in dB and `ssim`, both against the teacher's picture
      of the high-resolution pair; empty for the teacher and for any other model.
    """
    name = re.fullmatch(rf"{STUDENT}(?:_(\w+))?_x(\d)", directory.name)
    if directory.parent != _HERE or name is None:
        return {}
    text = (_HERE / "README.md").read_text(encoding="utf-8")
    family = f", {name[1]}" if name[1] else ""
    row = rf"^\| (\w+){family} \| x{name[2]} \|.*?\*\*([\d.]+) dB, ([\d.]+)\*\*"
    rows = re.findall(row, text, re.MULTILINE)
    return {name: {"psnr": float(a), "ssim": float(b)} for name, a, b in rows}


def load_directory(directory: Path) -> Model:
    """Loads a model directory, or exported weights, that `locate` returned.

    The tests check that each model of the package holds the network that it describes,
    so that this is not done again each time that one is loaded.

    Raises:
      UserError: see `Model.load`.
    """
    return Model.load(directory, check_shapes=directory.parent != _HERE)


def load(
    model: float | str | os.PathLike[str] | None = None,
    *,
    scale: float | None = None,
    style: str = STYLES[0],
    denoise: float = 0.0,
) -> Model:
    """Loads a model: `load(2)`, `load("runs/x2")`, `load("hf://owner/name")`.

    Args:
      model: the scale of a model that comes with the package, or what the commands take
        as `--model`: one of `names` (with `scale`), a model directory, exported
        weights (.safetensors or .npz), or an address `hf://OWNER/NAME[@REVISION]` on
        the Hugging Face Hub.  By default the package's own model of `scale`, or of 2.
      scale: output pixels per input pixel along each side: 2, 3 or 4, or 1 for a
        teacher, which fuses pairs that are already high-resolution; any number from
        1.5 to 4 for a model that `configs/student_any.py` trained.  Optional where
        `model` says it.
      style: how the package's models fuse.  `balanced`, as in the paper, is nearly a
        fixed average; `vivid` shows hot targets and visible texture at full contrast.
      denoise: how much of the cameras' noise, blur and compression the balanced
        students of the package take out, see `denoising`; 0 for nothing.

    Raises:
      TypeError: an argument is of another type.
      UserError: there is no such model, its file is damaged, or it has another scale.
    """
    if model is not None and not isinstance(model, str | os.PathLike):
        if scale is not None:
            raise TypeError("give load a scale once: load(2) or load(scale=2)")
        model, scale = None, _checked(model)
    elif scale is not None or model is None:
        scale = _checked(2 if scale is None else scale)
    if style not in STYLES:
        raise UserError(f"style is {style!r}; give one of {', '.join(STYLES)}.")
    name = None if model is None else os.fspath(model)
    if denoise:
        return denoising(name, scale, style, denoise)
    directory = locate(name, scale, style)
    loaded = load_directory(directory)
    if scale is None:
        return loaded
    try:
        return loaded.at(scale)
    except ValueError as error:
        remedy = "leave scale out" if model else "install the package again"
        raise UserError(f"{directory} {error}: {remedy}.") from error


def denoising(
    model: str | None, scale: float | None, style: str, strength: float
) -> Model:
    """A student between `lite` and `lite_camera`, which began as a copy of `lite`.

    Networks on the line between their weights make pictures between theirs (Wang et
    al., "Deep Network Interpolation", CVPR 2019), in the time of one.

    Args:
      model, scale, style: as of `locate`; only the balanced students can do it.
      strength: 0 for the weights of `lite`, 1 for those of `lite_camera`.

    Raises:
      UserError: the strength is not in [0, 1], or there is no such student.
    """
    if not 0 <= strength <= 1:
        raise UserError(f"The strength of denoising is {strength}: give 0 to 1.")
    if model not in (None, STUDENT) or style != STYLES[0]:
        raise UserError(
            f"Denoising is for the package's {STUDENT} in the style {STYLES[0]}: leave "
            "it out, or leave out the model and the style."
        )
    ends = [
        load_directory(locate(_name(STUDENT, family), scale))
        for family in (FAMILIES[-1], FAMILIES[0])
    ]
    params = jax.tree.map(
        lambda camera, clean: (1 - strength) * clean + strength * camera,
        *(end.params for end in ends),
    )
    return dataclasses.replace(ends[1], params=params)


def teacher_for(model: Model) -> Model:
    """A teacher that fuses high-resolution pairs as a model fuses low-resolution ones.

    It is the model itself if that has scale 1, or else the package's of its style.
    """
    if model.scale == 1:
        return model
    network = model.network
    if isinstance(network, Ensemble):
        network = network.network
    vivid = isinstance(network, Student) and network.config.skip_context
    return load(1, style=STYLES[1]) if vivid else load(1)


def _checked(scale: object) -> float:
    if isinstance(scale, bool) or not hasattr(scale, "__float__"):
        raise TypeError(
            f"scale must be a number, one of {SCALES} or from {LEAST_SCALE} to "
            f"{LARGEST_SCALE}, not {scale!r}: write load(2)"
        )
    if scale != 1 and not LEAST_SCALE <= scale <= LARGEST_SCALE:
        raise UserError(
            f"scale is {scale}; give one of {SCALES}, or any from {LEAST_SCALE} to "
            f"{LARGEST_SCALE} for a model that takes any."
        )
    return int(scale) if scale == int(scale) else float(scale)
