"""The configuration of a run: every key with its unit and limits, stated once.

The keys stand here and, group by group, in `training.config_groups`.  The defaults are
those of the paper's student at x2 (Sec. III-D, III-E), trained on procedural scenes
until `data.roots` is set.  `python -m hkdnet_jax.main --help` prints the keys; the runs
in configs/ start from the defaults and override some of them.
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
from hkdnet_jax.training.config_groups import Data, Loss, Mesh, Optim, Teacher, Train

# The compared systems that are trained here; hkdnet_jax/baselines/training.py.
BASELINES = ("edsr", "rcan", "densefuse", "cnn", "cen")


@dataclasses.dataclass(frozen=True)
class Run:
    """The configuration of a run, with all of its groups."""

    kind: str = key(
        "student",
        "network that is trained",
        choices=("student", "teacher", "baseline"),
    )
    baseline: str = key(
        "edsr",
        "baseline only: the compared system that is trained",
        choices=BASELINES,
    )
    scale: int = key(
        2,
        "super-resolution factor of a student, edsr or rcan; of a student with a "
        "continuous upsampler, the one that it has unless another is asked for",
        choices=SCALES[1:],
    )
    seed: int = key(
        0,
        "seed of the initial weights, the order of the data, the crops and the flips",
        at_least=0,
    )
    dtype: str = key(
        "float32",
        "floating-point type of the student's arithmetic; its image layer and the "
        "teacher always use float32",
        choices=DTYPES,
    )
    precision: str = key(
        "highest",
        "precision of the student's float32 convolutions and matrix products in "
        "training, on TPUs and NVIDIA GPUs; everything else always uses the highest",
        choices=PRECISIONS,
    )
    attention: str = key(
        "auto",
        "implementation of the position attention; auto picks the best one for the "
        "platform, cudnn needs an NVIDIA GPU and bfloat16, flash needs a TPU",
        choices=IMPLEMENTATIONS,
    )
    init_from: str = key(
        "",
        "model directory to start from: a teacher's run takes a teacher's, a student's "
        "run a student's (all of its weights, except the upsampler's if the scales "
        "differ; a continuous one takes that of scale 2) or a converted release's (its "
        "super-resolution part), a baseline's run the same system's; empty: random "
        "weights",
    )
    init_revive: bool = key(
        False,
        "teacher only: draw those units of init_from's decoder anew that hardly ever "
        "fire, which leaves its pictures as they are",
    )
    init_freeze: bool = key(
        False,
        "student only: keep the super-resolution part (`sr`) of init_from unchanged "
        "and train the rest",
    )
    model: StudentConfig = dataclasses.field(default_factory=lambda: PRESETS["full"])
    teacher: Teacher = dataclasses.field(default_factory=Teacher)
    data: Data = dataclasses.field(default_factory=Data)
    train: Train = dataclasses.field(default_factory=Train)
    optim: Optim = dataclasses.field(default_factory=Optim)
    loss: Loss = dataclasses.field(default_factory=Loss)
    log_every_steps: int = key(
        50, "number of steps between two rows of the log", at_least=1
    )
    checkpoint_every_steps: int = key(
        500, "number of steps between two checkpoints", at_least=1
    )
    val_every_epochs: int = key(
        1, "number of epochs between two validations", at_least=1
    )
    val_samples: int = key(
        4, "number of pairs whose pictures are saved at each validation", at_least=0
    )
    val_metrics: str = key(
        "",
        "fusion metrics of the validation pictures against their high-resolution "
        "sources: paper, all, or comma-separated names; empty: none",
    )
    val_metrics_every_epochs: int = key(
        10,
        "number of epochs between two computations of val_metrics, a multiple of "
        "val_every_epochs; they are also computed after the last step",
        at_least=1,
    )
    tensorboard: bool = key(True, "also write TensorBoard events (needs TensorFlow)")
    max_bad_steps: int = key(
        20,
        "stop after this many steps in a row whose loss or gradient is not finite",
        at_least=1,
    )
    lost_after: int = key(
        300,
        "several processes only: stop after this many seconds without a sign of life "
        "from another one, or without a step or a batch of the validation",
        at_least=10,
    )
    mesh: Mesh = dataclasses.field(default_factory=Mesh)


def _as_config(group: Any) -> ConfigDict:
    config = ConfigDict()
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            config[field.name] = _as_config(value)
        elif value is None:  # a number without a default
            config[field.name] = config_dict.placeholder(float)
        else:
            config[field.name] = value
    return config


def default_config() -> ConfigDict:
    """The paper's student at x2, as a configuration whose values can be overridden."""
    return _as_config(Run())


def use_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Sets `config.model` to one of PRESETS."""
    config.model = _as_config(PRESETS[name])
    return config


def model_of(config: ConfigDict) -> StudentConfig:
    """The student's `config.model`: its sizes and how it reads the paper.

    Raises:
      ValueError: a key is unknown, or a value is outside its limits.
    """
    return keys.from_mapping(StudentConfig, config.model.to_dict())


def groups(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """Yields each group of keys with the values of `config`, and its path (`optim.`).

    The group `model` is left out: `model_of` builds and checks it.

    Raises:
      KeyError: `config` lacks a key.
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
    """The keys as `--help` prints them: name, default, meaning and limits of each."""
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
