"""Checks a configuration before anything is compiled: one sentence a mistake."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from hkdnet_jax import metrics
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.losses import vgg
from hkdnet_jax.models.attention import DFA_AXES
from hkdnet_jax.ops.position_attention import IMPLEMENTATIONS, KERNELS, SOFTMAX
from hkdnet_jax.training.schedules import SCHEDULES

CHOICES = {
    "kind": ("student", "teacher"),
    "scale": (2, 3, 4),
    "dtype": ("float32", "bfloat16"),
    "attention": IMPLEMENTATIONS,
    "optim.schedule": SCHEDULES,
    "model.dfa_softmax": tuple(DFA_AXES),
    "model.position_softmax": SOFTMAX,
    "model.channel_softmax": SOFTMAX,
}
AT_LEAST_ONE = (
    "data.crop",
    "data.val_crop",
    "data.max_shrink",
    "data.samples_per_epoch",
    "data.scenes",
    "data.val_scenes",
    "train.batch_size",
    "train.epochs",
    "log_every_steps",
    "checkpoint_every_steps",
    "val_every_epochs",
    "val_metrics_every_epochs",
    "max_bad_steps",
    "model.width",
    "model.branch_rcabs",
    "model.dfabs",
    "model.sr_groups",
    "model.sr_rcabs",
    "model.reduction",
    "model.position_pool",
)
NOT_NEGATIVE = (
    "train.phase1_epochs",
    "val_samples",
    "mesh.data",
    "optim.warmup_steps",
    "optim.clip_norm",
    "loss.mu",
    "loss.percep",
    "loss.phi",
    "teacher.damping",
    "model.skip_damping",
)
# SSIM's window is 11 pixels, and a low-resolution crop needs some context.
MIN_CROP = 16


def _get(config: ConfigDict, path: str):
    for key in path.split("."):
        config = config[key]
    return config


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
    """The part of `check_config` that looks neither at devices nor at folders."""
    for key, choices in CHOICES.items():
        value = _get(config, key)
        listed = ", ".join(str(c) for c in choices)
        _require(value in choices, key, value, f"it must be one of {listed}")
    for key in AT_LEAST_ONE:
        _require(_get(config, key) >= 1, key, _get(config, key), "at least 1 is needed")
    for key in NOT_NEGATIVE:
        value = _get(config, key)
        _require(value >= 0, key, value, "it must not be negative")
    _require(config.optim.lr > 0, "optim.lr", config.optim.lr, "it must be positive")
    for key in ("optim.ema", "optim.b1", "optim.b2", "data.val_fraction"):
        value = _get(config, key)
        _require(0 <= value < 1, key, value, "it must be at least 0 and below 1")
    gamma = config.model.corner_gamma
    _require(0 < gamma < 1, "model.corner_gamma", gamma, "it must lie between 0 and 1")
    _check_layers(config)
    _check_val_metrics(config)
    _check_crops(config)
    _check_attention(config)
    _require(
        bool(config.init_from) or not config.init_freeze,
        "init_freeze",
        config.init_freeze,
        "a part that starts at random must be trained; name its weights in "
        "config.init_from",
    )
    if config.kind == "student":
        _check_student(config)
    else:
        _require(
            not config.init_from,
            "init_from",
            config.init_from,
            "a teacher has no super-resolution part; leave it empty",
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
    try:
        metrics.select(config.val_metrics)
    except UserError as error:
        raise UserError(f"config.val_metrics: {error}") from error
    every = config.val_metrics_every_epochs
    _require(
        every % config.val_every_epochs == 0,
        "val_metrics_every_epochs",
        every,
        "it must be a multiple of config.val_every_epochs "
        f"({config.val_every_epochs}), since validation computes them",
    )


def _check_crops(config: ConfigDict) -> None:
    scale = config.scale if config.kind == "student" else 1
    for key in ("data.crop", "data.val_crop"):
        value = _get(config, key)
        _require(
            value % scale == 0, key, value, f"it must be divisible by the scale {scale}"
        )
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
        f"the kernel does not know config.model.position_softmax={softmax}; take auto",
    )
    _require(
        kind != "cudnn" or config.dtype == "bfloat16",
        "attention",
        kind,
        f"the kernel needs config.dtype=bfloat16, not {config.dtype}; take auto",
    )


# jax's names of the platforms that the kernels are for.
_KERNEL_BACKENDS = {"cudnn": "gpu", "flash": "tpu"}


def _check_devices(config: ConfigDict) -> None:
    backend, kind = jax.default_backend(), config.attention
    _require(
        backend == _KERNEL_BACKENDS.get(kind, backend),
        "attention",
        kind,
        f"the kernel does not run on a {backend}; take auto",
    )
    there = jax.device_count()
    devices = config.mesh.data or there
    _require(
        devices <= there, "mesh.data", config.mesh.data, f"there are {there} devices"
    )
    _require(
        there % devices == 0,
        "mesh.data",
        config.mesh.data,
        f"it must divide the {there} devices there are, so that no part of them stays "
        "idle; set it to 0 for all",
    )
    processes = jax.process_count()
    _require(
        processes == 1 or devices == there,
        "mesh.data",
        config.mesh.data,
        f"{processes} processes share the batch over all their {there} devices; "
        "set it to 0",
    )
    _require(
        config.train.batch_size % devices == 0,
        "train.batch_size",
        config.train.batch_size,
        f"it must be divisible by the {devices} devices of the mesh; set "
        "config.mesh.data to use fewer",
    )


def _check_student(config: ConfigDict) -> None:
    _require(
        config.train.phase1_epochs <= config.train.epochs,
        "train.phase1_epochs",
        config.train.phase1_epochs,
        f"the whole run has only {config.train.epochs} epochs",
    )


def _check_teacher_dir(config: ConfigDict) -> None:
    teacher = config.teacher.dir
    remedy = (
        "a student needs the workdir of a trained teacher; train one with "
        "--config=configs/teacher.py"
    )
    _require(bool(teacher) and Path(teacher).is_dir(), "teacher.dir", teacher, remedy)
