"""Checks a configuration before anything is compiled; a mistake is one sentence."""

import math

import jax
from ml_collections import ConfigDict

from hkdnet_jax import metrics
from hkdnet_jax.common import keys
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path
from hkdnet_jax.losses import vgg
from hkdnet_jax.models.presets import LARGEST_SCALE, MIN_CROP, SCALES
from hkdnet_jax.ops.position_attention import KERNELS, has_kernel
from hkdnet_jax.training.config import groups, model_of
from hkdnet_jax.training.views import is_continuous


def _require(condition: bool, key: str, value, remedy: str) -> None:
    if not condition:
        raise UserError(f"config.{key} is {value!r}: {remedy}.")


def check_config(config: ConfigDict) -> None:
    """Raises UserError for the first value that cannot work on this machine."""
    check_values(config)
    _check_devices(config)
    if config.kind == "student":
        _check_teacher_dir(config)


def check_values(config: ConfigDict) -> None:
    """Raises UserError for the first value that cannot work on any machine.

    This is the part of `check_config` that looks neither at devices nor at folders.
    """
    for prefix, group in groups(config):
        for name, value, remedy in keys.problems(group):
            raise UserError(f"config.{prefix}{name} is {value!r}: {remedy}.")
    try:
        model_of(config)
    except ValueError as error:
        raise UserError(f"config.{error}.") from error
    _check_milestones(config)
    _check_layers(config)
    _check_val_metrics(config)
    _check_data(config)
    _check_crops(config)
    _check_attention(config)
    _check_start(config)
    _check_style(config)
    _check_degradation(config)
    _check_accumulation(config)
    _check_additions(config)
    if config.kind == "student":
        _check_student(config)


def _check_start(config: ConfigDict) -> None:
    for name, kind in (("init_freeze", "student"), ("init_revive", "teacher")):
        wanted = config[name]
        _require(
            config.kind == kind or not wanted,
            name,
            wanted,
            f"it is for a {kind}'s run; leave it False",
        )
        _require(
            bool(config.init_from) or not wanted,
            name,
            wanted,
            "random weights have no use for it; name a model in config.init_from",
        )


def _check_style(config: ConfigDict) -> None:
    style = config.teacher.style
    _require(
        config.kind == "teacher" or style == "balanced",
        "teacher.style",
        style,
        "it is for a teacher's run, and a student's fuses like its teacher; leave it "
        "balanced and name a vivid teacher in config.teacher.dir",
    )
    _require(
        style == "balanced" or bool(config.init_from),
        "teacher.style",
        style,
        "its fusion is trained from a teacher that reconstructs; name one in "
        "config.init_from",
    )
    _require(
        (style == "vivid") == bool(config.teacher.context),
        "teacher.context",
        config.teacher.context,
        "a vivid teacher needs one, such as 12, and a balanced one has 0",
    )
    _require(
        style == "balanced" or not config.loss.percep,
        "loss.percep",
        config.loss.percep,
        "a vivid teacher has no perceptual term; set it to 0",
    )


def _check_degradation(config: ConfigDict) -> None:
    degradation = config.data.degradation
    _require(
        config.kind == "student" or degradation == "bilinear",
        "data.degradation",
        degradation,
        "a teacher's run degrades nothing; leave it bilinear",
    )
    _require(
        not is_continuous(config) or degradation == "bilinear",
        "data.degradation",
        degradation,
        "a continuous upsampler learns from clean pairs alone; leave it bilinear",
    )


def _check_additions(config: ConfigDict) -> None:
    """What would be ignored in silence."""
    for name, value in (
        ("data.single", config.data.single),
        ("loss.frequency", config.loss.frequency),
    ):
        _require(
            config.kind == "student" or not value,
            name,
            value,
            f"it is for a student's run, and this is a {config.kind}'s; leave it 0",
        )
    _require(
        bool(config.data.roots or config.data.tfds) or not config.data.added_scenes,
        "data.added_scenes",
        config.data.added_scenes,
        "there are no stored pairs to add scenes to; name some in config.data.roots",
    )


def _check_accumulation(config: ConfigDict) -> None:
    parts, batch_size = config.train.accumulate, config.train.batch_size
    key = "train.accumulate"
    _require(
        config.kind == "student" or parts == 1,
        key,
        parts,
        f"a {config.kind}'s loss is not a mean over the samples; leave it 1",
    )
    _require(
        not config.loss.scale_features or parts == 1,
        key,
        parts,
        "config.loss.scale_features needs the deviation over the whole batch; set one "
        "of the two back",
    )
    _require(
        batch_size % parts == 0,
        key,
        parts,
        f"config.train.batch_size ({batch_size}) must be a multiple of it",
    )


def _check_milestones(config: ConfigDict) -> None:
    milestones = tuple(config.optim.milestones)
    _require(
        all(0 < share < 1 for share in milestones),
        "optim.milestones",
        milestones,
        "it must hold shares of a phase, between 0 and 1",
    )


def _check_layers(config: ConfigDict) -> None:
    unknown = [name for name in config.loss.vgg_layers if name not in vgg.LAYERS]
    _require(
        not unknown and len(config.loss.vgg_layers) > 0,
        "loss.vgg_layers",
        tuple(config.loss.vgg_layers),
        f"name some of {', '.join(vgg.LAYERS)}",
    )


def _check_val_metrics(config: ConfigDict) -> None:
    if not config.val_metrics:
        return
    _require(
        config.kind != "baseline",
        "val_metrics",
        config.val_metrics,
        "a baseline's run computes none; leave it empty, and use compare",
    )
    try:
        names = metrics.select(config.val_metrics)
    except UserError as error:
        raise UserError(f"config.val_metrics: {error}") from error
    for name in names:
        if metrics.METRICS[name].scaled:
            raise UserError(
                f"config.val_metrics={config.val_metrics} holds {name}, which is for "
                "whole pictures: leave it out, and use evaluate --metrics."
            )
    every = config.val_metrics_every_epochs
    _require(
        every % config.val_every_epochs == 0,
        "val_metrics_every_epochs",
        every,
        "it must be a multiple of config.val_every_epochs "
        f"({config.val_every_epochs}), since validation computes them",
    )


def _check_data(config: ConfigDict) -> None:
    data = config.data
    _require(
        not (data.roots and data.tfds),
        "data.tfds",
        data.tfds,
        f"config.data.roots={data.roots} names the pairs already; leave one of the two "
        "empty",
    )
    _require(
        all(part.partition(":")[0].strip() for part in data.tfds.split("+"))
        or not data.tfds,
        "data.tfds",
        data.tfds,
        "it must be NAME[:SPLIT][+NAME[:SPLIT]...], such as msrs:train+roadscene",
    )


def _check_crops(config: ConfigDict) -> None:
    continuous = is_continuous(config)
    scale = 1 if config.kind == "teacher" else config.scale
    for name in ("crop", "val_crop"):
        key, value = f"data.{name}", config.data[name]
        divisor, why = scale, f"the scale {scale}"
        if continuous:
            scale = divisor = LARGEST_SCALE
            why = f"{divisor}, the largest factor of a continuous upsampler"
            if name == "val_crop":
                divisor = math.lcm(*SCALES)
                why = f"{divisor}, for a continuous upsampler is judged at all scales"
        _require(value % divisor == 0, key, value, f"it must be divisible by {why}")
        smallest = MIN_CROP * scale
        _require(
            value >= smallest, key, value, f"at least {smallest} pixels are needed"
        )


def _check_attention(config: ConfigDict) -> None:
    kind = config.attention
    if kind not in KERNELS:
        return
    softmax = config.model.position_softmax
    _require(
        softmax == "row",
        "attention",
        kind,
        f"the kernel does not support config.model.position_softmax={softmax}; use "
        "auto",
    )
    _require(
        kind != "cudnn" or config.dtype == "bfloat16",
        "attention",
        kind,
        f"the kernel needs config.dtype=bfloat16, not {config.dtype}; use auto",
    )


def _check_devices(config: ConfigDict) -> None:
    backend, kind = jax.default_backend(), config.attention
    _require(
        kind not in KERNELS or has_kernel(kind),
        "attention",
        kind,
        f"the kernel does not run on this {backend}; use auto",
    )
    available = jax.device_count()
    devices = config.mesh.data or available
    _require(
        devices <= available,
        "mesh.data",
        config.mesh.data,
        f"there are {available} devices",
    )
    processes = jax.process_count()
    _require(
        processes == 1 or devices == available,
        "mesh.data",
        config.mesh.data,
        f"{processes} processes share the batch over all of their {available} devices; "
        "set it to 0",
    )
    _require(
        config.train.batch_size % devices == 0,
        "train.batch_size",
        config.train.batch_size,
        f"it must be divisible by the {devices} devices of the mesh; set "
        "config.mesh.data to use fewer",
    )
    parts = config.train.accumulate
    _require(
        config.train.batch_size % (devices * parts) == 0,
        "train.accumulate",
        parts,
        f"config.train.batch_size ({config.train.batch_size}) must be a multiple of "
        f"it times the {devices} devices of the mesh",
    )


def _check_student(config: ConfigDict) -> None:
    _require(
        config.train.phase1_epochs <= config.train.epochs,
        "train.phase1_epochs",
        config.train.phase1_epochs,
        f"the run has only {config.train.epochs} epochs",
    )


def _check_teacher_dir(config: ConfigDict) -> None:
    teacher = config.teacher.dir
    remedy = (
        "a student needs the workdir of a trained teacher; train one with "
        "--config=configs/teacher.py"
    )
    found = bool(teacher) and as_path(teacher).is_dir()
    _require(found, "teacher.dir", teacher, remedy)
