"""The models that come with the package, and the names that `--model` accepts.

Each is a model directory in this folder; README.md is their model card.
"""

from pathlib import Path

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import SCALES

TEACHER, STUDENT = "teacher", "lite"
NAMES = (STUDENT, TEACHER)
_HERE = Path(__file__).parent
_STUDENT_SCALES = SCALES[1:]


def locate(model: str | None, scale: int | None) -> Path:
    """Returns the model directory that a model and a scale stand for.

    Args:
      model: one of NAMES, or else the path of a directory (`./lite` for one of that
        name); None for the model that comes with the package for `scale`.
      scale: the requested scale, or None for the model's own.

    Raises:
      UserError: there are several such models, or none.
    """
    if model is None:
        if scale is None:
            raise UserError(
                "Give --scale 2, 3 or 4 (or 1 for pairs that are high-resolution "
                "already) to use the models that come with the package, or --model DIR."
            )
        model = TEACHER if scale == 1 else STUDENT
    if model == TEACHER:
        return _HERE / TEACHER
    if model != STUDENT:
        return Path(model)
    if scale not in _STUDENT_SCALES:
        given = "without --scale" if scale is None else f"at --scale {scale}"
        raise UserError(f"{STUDENT} cannot be used {given}: give --scale 2, 3 or 4.")
    return _HERE / f"{STUDENT}_x{scale}"


def load_directory(directory: Path) -> Model:
    """Loads a model directory that `locate` returned.

    The tests check that each model of the package holds the network that it describes,
    so that this is not done again each time that one is loaded.

    Raises:
      UserError: see `Model.load`.
    """
    return Model.load(directory, check_shapes=directory.parent != _HERE)


def load(scale: int = 2) -> Model:
    """Loads the model that comes with the package for `scale`.

    Args:
      scale: output pixels per input pixel along each side: 2, 3 or 4, or 1 for the
        teacher, which fuses pairs that are already high-resolution.

    Raises:
      TypeError: `scale` is no integer.
      UserError: there is none, or its file is damaged or of another scale.
    """
    if isinstance(scale, bool) or not hasattr(scale, "__index__"):
        raise TypeError(
            f"scale must be an integer, one of {SCALES}, not {scale!r}: write load(2)"
        )
    if scale not in SCALES:
        raise UserError(f"scale is {scale}; give one of {SCALES}.")
    directory = locate(None, scale)
    model = load_directory(directory)
    if model.scale != scale:
        raise UserError(
            f"{directory} has scale {model.scale}, not {scale}: install the package "
            "again."
        )
    return model
