"""The configuration of a run: every key once, with its unit and limits.

The defaults are the paper's student at x2 (Sec. III-D, III-E), on the embedded scenes
until `data.roots` is set. `python -m hkdnet_jax.main --help` prints this list, and
configs/ holds the runs, which start from here and override.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

from hkdnet_jax.common import keys
from hkdnet_jax.common.keys import Limits, key
from hkdnet_jax.models.presets import PRESETS, SCALES, StudentConfig
from hkdnet_jax.ops.position_attention import IMPLEMENTATIONS
from hkdnet_jax.runtime.precision import DTYPES, PRECISIONS

SCHEDULES = ("constant", "cosine", "step")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """How a teacher fuses, and where a student's run finds its teacher."""

    alpha: float | None = key(
        None,
        "weight of the visible features in Eq. 5; of a teacher's run, for a student's "
        "run reads it from its teacher's own file",
        at_least=0.0,
    )
    damping: float | None = key(
        None,
        "added to both activities of Eq. 15, as a share of a white image's, 0 is the "
        "paper's; of a teacher's run, likewise",
        at_least=0.0,
    )
    dir: str = key("", "student runs: model directory or workdir of a teacher")


@dataclasses.dataclass(frozen=True)
class Data:
    """Where pairs come from, and what is cut out of them."""

    roots: str = key(
        "",
        "folders that hold ir/ and vis/, separated by commas; empty: procedural scenes",
    )
    train_split: str = key("", "file with a pair name a line; empty: by val_fraction")
    val_split: str = key("", "the same for validation")
    val_fraction: float = key(
        0.1,
        "share of pairs held out when no split is given",
        at_least=0.0,
        below=1.0,
    )
    crop: int = key(
        128, "pixels, high resolution, square; divisible by the scale", at_least=1
    )
    val_crop: int = key(
        144, "the same for validation: one centre crop a pair", at_least=1
    )
    max_shrink: float = key(
        1.0,
        "crops are windows up to so many times as large, shrunk; 1: as they are",
        at_least=1.0,
    )
    samples_per_epoch: int = key(12000, "crops; at least one a pair", at_least=1)
    scenes: int = key(256, "number of training scenes when roots is empty", at_least=1)
    val_scenes: int = key(
        16, "number of validation scenes when roots is empty", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """How long a run is."""

    batch_size: int = key(64, "crops a step, over all devices", at_least=1)
    epochs: int = key(250, "of the whole run", at_least=1)
    phase1_epochs: int = key(
        60, "of these, fusion part alone (student only)", at_least=0
    )


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer: Adam, its step size, clipping and averaging."""

    lr: float = key(1e-4, "Adam's step size", above=0.0)
    schedule: str = key(
        "constant",
        "of the step size within a phase; cosine falls to 0 at its end, step halves "
        "it at each milestone",
        choices=SCHEDULES,
    )
    milestones: tuple[float, ...] = key(
        (0.5, 0.75), "shares of a phase where `step` halves the step size"
    )
    warmup_steps: int = key(
        0, "at the start of each phase, linear from lr / warmup_steps", at_least=0
    )
    b1: float = key(0.9, "decay of Adam's first moment", at_least=0.0, below=1.0)
    b2: float = key(0.999, "decay of Adam's second moment", at_least=0.0, below=1.0)
    clip_norm: float = key(
        0.0, "largest global gradient norm; 0: no clipping", at_least=0.0
    )
    ema: float = key(
        0.0,
        "decay a step of averaged weights, shorter at first; 0: no averaging",
        at_least=0.0,
        below=1.0,
    )


@dataclasses.dataclass(frozen=True)
class Loss:
    """Weights of the losses' terms."""

    mu: float = key(1000.0, "teacher: weight of the SSIM term (Eq. 17)", at_least=0.0)
    percep: float = key(
        1.0, "teacher: weight of the perceptual term; 0: no VGG16", at_least=0.0
    )
    vgg_path: str = key(
        "", "VGG16 weights (.npz or .h5); empty: fetched by Keras's address"
    )
    vgg_layers: tuple[str, ...] = key(
        ("relu2_2", "relu3_3"), "teacher: layers of the perceptual term"
    )
    phi: float = key(
        1.0,
        "student: weight of the feature terms (Eq. 23); 0: they are not computed",
        at_least=0.0,
    )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Which devices share the work."""

    data: int = key(0, "devices the batch is spread over; 0: all there are", at_least=0)


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole run."""

    kind: str = key("student", "what is trained", choices=("student", "teacher"))
    scale: int = key(2, "super-resolution factor of the student", choices=SCALES[1:])
    seed: int = key(0, "of initial weights, data order, crops and flips", at_least=0)
    dtype: str = key(
        "float32",
        "of the student's arithmetic; its image layer and the teacher stay float32",
        choices=DTYPES,
    )
    precision: str = key(
        "highest",
        "of the student's float32 convolutions and products in training, on TPUs and "
        "NVIDIA GPUs; all else is always at the highest",
        choices=PRECISIONS,
    )
    attention: str = key(
        "auto",
        "how the position attention is computed: what the platform does best, or one "
        "way; cudnn needs an NVIDIA GPU and bfloat16, flash a TPU",
        choices=IMPLEMENTATIONS,
    )
    init_from: str = key(
        "",
        "student: model directory to start from, a student's (all, but the upsampler "
        "where the scales differ) or a converted release's (its super-resolution "
        "part); empty: random weights",
    )
    init_freeze: bool = key(False, "keep the part `sr` as it is, and train all else")
    model: StudentConfig = dataclasses.field(default_factory=lambda: PRESETS["full"])
    teacher: Teacher = dataclasses.field(default_factory=Teacher)
    data: Data = dataclasses.field(default_factory=Data)
    train: Train = dataclasses.field(default_factory=Train)
    optim: Optim = dataclasses.field(default_factory=Optim)
    loss: Loss = dataclasses.field(default_factory=Loss)
    log_every_steps: int = key(
        50, "steps from one row of the log to the next", at_least=1
    )
    checkpoint_every_steps: int = key(
        500, "steps from one checkpoint to the next", at_least=1
    )
    val_every_epochs: int = key(1, "epochs from one validation to the next", at_least=1)
    val_samples: int = key(4, "validation pictures drawn each time", at_least=0)
    val_metrics: str = key(
        "",
        "fusion metrics of the validation pictures against their high-resolution "
        "sources: paper | all | names separated by commas; empty: none",
    )
    val_metrics_every_epochs: int = key(
        10,
        "a multiple of val_every_epochs; also after the last step",
        at_least=1,
    )
    tensorboard: bool = key(True, "also write TensorBoard events (needs TensorFlow)")
    max_bad_steps: int = key(
        20,
        "stop after so many steps in a row with a loss or gradient that is not finite",
        at_least=1,
    )
    mesh: Mesh = dataclasses.field(default_factory=Mesh)


def _as_config(group: Any) -> ConfigDict:
    config = ConfigDict()
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            config[field.name] = _as_config(value)
        elif value is None:  # a number that may be left out
            config[field.name] = config_dict.placeholder(float)
        else:
            config[field.name] = value
    return config


def default_config() -> ConfigDict:
    """The paper's student at x2, as a configuration whose values can be overridden."""
    return _as_config(Run())


def use_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Sets `config.model` to a preset: full, lite or tiny."""
    config.model = _as_config(PRESETS[name])
    return config


def model_of(config: ConfigDict) -> StudentConfig:
    """The student's sizes and readings.

    Raises:
      ValueError: a value is out of its limits.
    """
    return keys.from_mapping(StudentConfig, config.model.to_dict())


def groups(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """The groups of keys with the values of `config`, each with its path (`optim.`).

    The group `model` is left out: making it checks it, see `model_of`.

    Raises:
      ValueError: `config` lacks a key or has one too many.
    """
    for name, kind in (("", Run), *_subgroups()):
        values = config[name] if name else config
        own = {field: values[field] for field in keys.limits_of(kind)}
        yield f"{name}." if name else "", keys.from_mapping(kind, own)


def _subgroups() -> list[tuple[str, type]]:
    nested = ((f.name, type(getattr(Run(), f.name))) for f in dataclasses.fields(Run))
    return [
        (name, kind)
        for name, kind in nested
        if dataclasses.is_dataclass(kind) and kind is not StudentConfig
    ]


def listing() -> str:
    """Every key with default, limits and meaning, one a line, for `--help`."""
    lines = []
    for prefix, group in (("", Run()), *((f"{n}.", k()) for n, k in _nested())):
        for name, limits in keys.limits_of(group).items():
            lines.append(_line(f"{prefix}{name}", getattr(group, name), limits))
    return "\n".join(lines)


def _nested() -> list[tuple[str, type]]:
    return [("model", StudentConfig), *_subgroups()]


def _line(path: str, default: Any, limits: Limits) -> str:
    limited = f" [{limits.range()}]" if limits.range() else ""
    shown = "" if default is None else str(default)
    return f"  --config.{path}={shown}  {limits.meaning}{limited}"
