"""Pure training steps; `training.run` jits them.

A batch, as the host sends it, holds the uint8 high-resolution crops `ir` and `vis`,
[N, crop, crop, 1].  The flips, the low-resolution images and the labels of the frozen
teacher are computed here, on the device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hkdnet_jax.common.arrays import to_float
from hkdnet_jax.losses import vgg
from hkdnet_jax.losses.student import student_phase1_loss, student_phase2_loss
from hkdnet_jax.losses.teacher import idleness, teacher_loss
from hkdnet_jax.losses.vivid import vivid_loss
from hkdnet_jax.models.student import FeatureAdapter, Student
from hkdnet_jax.models.teacher import Teacher, for_reduced
from hkdnet_jax.training import views
from hkdnet_jax.training.accumulation import Loss, gradients
from hkdnet_jax.training.networks import build_student, build_teacher
from hkdnet_jax.training.optimizer import Optimizer
from hkdnet_jax.training.state import Params, TrainState, apply_gradients
from hkdnet_jax.training.views import Pair, View

Batch = Mapping[str, jax.Array]
Scalars = dict[str, jax.Array]
# (state, frozen parameters, batch) -> (state, scalars)
TrainStep = Callable[[TrainState, Params, Batch], tuple[TrainState, Scalars]]
# What `loss.idle` asks of the teacher's layers: see `idleness`.  Eq. 22 and 23 compare
# the decoder's features by absolute differences, and a channel that fires at fewer than
# half of the pixels is then best met by 0.  The encoder's need only stay alive; in
# training both encoders read the same image.
_LEAST_MEANS = {"encoder_ir": -2.0, "decoder1": 0.0, "decoder2": 0.0, "decoder3": 0.0}


def step_key(config: ConfigDict, step: jax.Array | int, stream: int) -> jax.Array:
    """The random key of one stream at one step, a function of the seed and the step."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    return jax.random.fold_in(key, stream)


def _flip(key: jax.Array, *images: jax.Array) -> tuple[jax.Array, ...]:
    """Mirrors each sample left-right and top-bottom, each with probability 1/2.

    All `images`, [N, H, W, 1] each, are mirrored alike.
    """
    n = images[0].shape[0]
    for axis, coin in zip((1, 2), jax.random.bernoulli(key, shape=(2, n)), strict=True):
        coin = coin[:, None, None, None]
        images = tuple(jnp.where(coin, jnp.flip(x, axis), x) for x in images)
    return images


def augmented(config: ConfigDict, step: jax.Array, batch: Batch) -> Pair:
    """The batch's IR and VIS as float32 in [0, 1], flipped at random."""
    ir, vis = to_float(batch["ir"]), to_float(batch["vis"])
    ir, vis = _flip(step_key(config, step, stream=0), ir, vis)
    return ir, vis


def _single(config: ConfigDict, key: jax.Array, pair: Pair) -> Pair:
    """Replaces both images of a share of the samples by one of them, see `single`."""
    if not config.data.single:
        return pair
    ir, vis = pair
    chance, coin = jax.random.split(key)
    shape = (ir.shape[0], 1, 1, 1)
    one = jnp.where(jax.random.bernoulli(coin, shape=shape), ir, vis)
    alike = jax.random.bernoulli(chance, config.data.single, shape)
    return jnp.where(alike, one, ir), jnp.where(alike, one, vis)


def train_step(
    config: ConfigDict,
    optimizer: Optimizer,
    teacher: Teacher,
    phase: int,
) -> TrainStep:
    """The training step of a phase of a teacher's or a student's run, not yet jitted.

    Args:
      config: the run's configuration.
      optimizer: see `optimizer.make_optimizer`.
      teacher: the frozen teacher of a student's run; not used for a teacher's run.
      phase: 1 or 2; a teacher's run has only phase 1.
    """
    if config.kind == "teacher":
        if config.teacher.style == "vivid":
            return vivid_train_step(config, optimizer)
        return teacher_train_step(config, optimizer)
    return student_train_step(config, optimizer, teacher, phase)


def teacher_train_step(config: ConfigDict, optimizer: Optimizer) -> TrainStep:
    """The step that trains the teacher on single images (Eq. 17).

    Each sample is the IR or the VIS image of its pair, at random.  The frozen
    parameters are VGG16's, or empty if `loss.percep` is 0.
    """
    model = build_teacher(config)

    def step_fn(state: TrainState, frozen: Params, batch: Batch):
        ir, vis = augmented(config, state.step, batch)
        coin = jax.random.bernoulli(
            step_key(config, state.step, stream=1), shape=(ir.shape[0], 1, 1, 1)
        )
        image = jnp.where(coin, ir, vis)

        def loss_fn(params: Params, image: jax.Array):
            output, out = model.apply({"params": params}, image, image)
            loss, terms = _teacher_loss(config, frozen, output, image)
            return _with_idleness(config, loss, terms, out)

        return descend(config, optimizer, state, state.params, loss_fn, image)

    return step_fn


def vivid_train_step(config: ConfigDict, optimizer: Optimizer) -> TrainStep:
    """The step that trains a teacher's fusion on pairs, see `losses.vivid`.

    There are no frozen parameters.
    """
    model = build_teacher(config)
    names = ("intensity", "gradient", "similarity")
    weights = {name: config.loss[name] for name in names}

    def step_fn(state: TrainState, frozen: Params, batch: Batch):
        del frozen

        def loss_fn(params: Params, pair: Pair):
            output, out = model.apply({"params": params}, *pair)
            loss, terms = vivid_loss(output, *pair, **weights)
            return _with_idleness(config, loss, terms, out)

        pair = augmented(config, state.step, batch)
        return descend(config, optimizer, state, state.params, loss_fn, pair)

    return step_fn


def descend(
    config: ConfigDict,
    optimizer: Optimizer,
    state: TrainState,
    trained: Params,
    loss_fn: Loss,
    images: Any,
) -> tuple[TrainState, Scalars]:
    """Takes a step down the gradient of a loss.

    Args:
      config: the run's configuration; `train.accumulate` is read.
      optimizer: that of the run.
      state: the state before the step.
      trained: the groups of its parameters that the loss is a function of.
      loss_fn: maps them and the images to the loss and its terms by name.
      images: a pytree of arrays [N, ...].

    Returns:
      The state after the step, and the scalars to be logged.
    """
    parts = config.train.accumulate
    (loss, terms), gradient = gradients(loss_fn, trained, images, parts)
    state, scalars = apply_gradients(config, optimizer, state, gradient, loss)
    return state, scalars | {"loss": loss} | _named(terms)


def _with_idleness(
    config: ConfigDict, loss: jax.Array, terms: Scalars, out: Mapping[str, jax.Array]
) -> tuple[jax.Array, Scalars]:
    """Adds the term that keeps a teacher's units firing, if `loss.idle` is set."""
    if not config.loss.idle:
        return loss, terms
    idle = sum(
        idleness(out[f"{name}_linear"], mean) for name, mean in _LEAST_MEANS.items()
    )
    return loss + config.loss.idle * idle, terms | {"idle": idle}


def _teacher_loss(
    config: ConfigDict, frozen: Params, output: jax.Array, image: jax.Array
) -> tuple[jax.Array, Scalars]:
    percep = None
    if config.loss.percep:
        layers = config.loss.vgg_layers
        percep = tuple(vgg.features(frozen, x, layers) for x in (output, image))
    return teacher_loss(
        output,
        image,
        norm=config.loss.norm,
        mu=config.loss.mu,
        percep_weight=config.loss.percep,
        percep=percep,
    )


def student_train_step(
    config: ConfigDict,
    optimizer: Optimizer,
    teacher: Teacher,
    phase: int,
) -> TrainStep:
    """The step that trains a student; the frozen parameters are its teacher's.

    Phase 1 (Eq. 22) runs and trains only the fusion part.  Phase 2 (Eq. 23) trains all
    groups, except the super-resolution part if `init_freeze` is set.  It compares only
    images if `loss.phi` is 0.

    Args:
      config: the run's configuration.
      optimizer: see `optimizer.make_optimizer`.
      teacher: the frozen teacher.
      phase: 1 or 2.
    """
    student = build_student(config)
    loss_of_phase = _phase1_loss if phase == 1 else _phase2_loss
    groups = {"fusion"} if phase == 1 else {"fusion", "sr", "adapter"}
    if config.init_freeze:
        groups.discard("sr")

    def step_fn(state: TrainState, frozen: Params, batch: Batch):
        pair = augmented(config, state.step, batch)
        pair = _single(config, step_key(config, state.step, stream=4), pair)
        key = step_key(config, state.step, stream=2)
        seen = views.view(config, key, pair)

        def loss_fn(trained: Params, pairs: Mapping[str, Pair]):
            part, params = seen._replace(**pairs), {**state.params, **trained}
            return loss_of_phase(config, (teacher, frozen), (student, params), part)

        trained = {k: v for k, v in state.params.items() if k in groups}
        pairs = {"high": seen.high, "clean": seen.clean, "taken": seen.taken}
        return descend(config, optimizer, state, trained, loss_fn, pairs)

    return step_fn


def _phase1_loss(
    config: ConfigDict,
    teacher: tuple[Teacher, Params],
    student: tuple[Student, Params],
    seen: View,
) -> tuple[jax.Array, Scalars]:
    """Eq. 22 of a view; networks with parameters."""
    (network, params), (labels, frozen) = student, teacher
    small = for_reduced(labels, config.scale)
    _, label = small.apply({"params": frozen}, *seen.clean)
    _, out = network.apply({"params": params}, *seen.taken, method=Student.fuse_only)
    suffix = feature_suffix(config)
    fused = config.loss.fused_scale * label[f"decoder3{suffix}"]
    return student_phase1_loss(
        fused, out[f"decoded{suffix}"], scaled=config.loss.scale_features
    )


def _phase2_loss(
    config: ConfigDict,
    teacher: tuple[Teacher, Params],
    student: tuple[Student, Params],
    seen: View,
) -> tuple[jax.Array, Scalars]:
    """Eq. 23 of a view; networks with parameters."""
    (network, params), (labels, frozen) = student, teacher
    image_t, label = labels.apply({"params": frozen}, *seen.high)
    image_s, out = network.apply({"params": params}, *seen.taken, window=seen.window)
    features_t, features_s = [], []
    if config.loss.phi:
        low_label = {}
        if config.model.global_skip:
            small = for_reduced(labels, config.scale)
            _, low_label = small.apply({"params": frozen}, *seen.clean)
        features_t = features_to_add(config, label, low_label, seen)
        features_s = [out["tail"], adapt(config, params, out["upsampled"])]
    return student_phase2_loss(
        seen.cut(image_t),
        image_s,
        features_t,
        features_s,
        phi=config.loss.phi,
        frequency=config.loss.frequency,
        scaled=config.loss.scale_features,
    )


def feature_suffix(config: ConfigDict) -> str:
    """What `loss.features` appends to the name of a ReLU layer's output."""
    return {"relu": "", "linear": "_linear"}[config.loss.features]


def features_to_add(
    config: ConfigDict,
    label: Mapping[str, jax.Array],
    low_label: Mapping[str, jax.Array],
    seen: View,
) -> list[jax.Array]:
    """The teacher's side of Eq. 23, for the student's `tail` and `upsampled`.

    A student with the global skip enlarges the teacher's picture of the low-resolution
    pair by bicubic interpolation and adds an image of what that lacks.  The teacher's
    last convolution makes a picture from features, so features of what is lacking are
    the teacher's less the enlarged ones of the low-resolution pair.  Without the skip
    they are the teacher's, as in the paper.

    Args:
      config: the run's.
      label: the teacher's layers for the high-resolution pair.
      low_label: those for the low-resolution pair; read only with the skip.
      seen: the view, which says what of them is compared.

    Returns:
      [N, H, W, 16] and [N, H, W, 64].
    """
    names = [f"decoder{i}{feature_suffix(config)}" for i in (3, 1)]
    if not config.model.global_skip:
        return [seen.cut(label[name]) for name in names]
    return [seen.cut(label[name]) - seen.enlarge(low_label[name]) for name in names]


def adapt(config: ConfigDict, params: Params, upsampled: jax.Array) -> jax.Array:
    """The output of the student's upsampler with 64 channels, for Eq. 23.

    Args:
      config: the run's; `precision` is read.
      params: parameters of the student, with the group `adapter` if it has one.
      upsampled: [N, H, W, C] features.

    Returns:
      [N, H, W, 64]: the features after the adapter, or as they are without one.
    """
    if "adapter" not in params:
        return upsampled
    adapter = FeatureAdapter(config.precision)
    return adapter.apply({"params": params["adapter"]}, upsampled)


def _named(terms: Scalars) -> Scalars:
    """The terms of a loss by the names that they have in the log."""
    return {f"loss_{name}": value for name, value in terms.items()}
