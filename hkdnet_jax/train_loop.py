"""The training loop: restore, step, log, validate, save.

The loop talks to the disk through two objects that the caller opens (`main.run`):
`checkpoint.Checkpoints` and `writers.Writer`.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines import loader, pairs
from data_pipelines.errors import UserError
from hkdnet_jax import (
    metrics,
    processes,
    schedules,
    sharding,
    steps,
    validation,
    vgg,
    weights,
)
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.state import Params, TrainState, create
from hkdnet_jax.trained import Model, describe, load_start

# Steps that may wait in the device's queue: enough to keep it busy. SIGTERM must wait
# for them all, and on a CPU up to 32 would queue up: a minute of work.
_AHEAD = 4


def open_sources(config: ConfigDict) -> tuple[Any, Any]:
    """Training and validation sources of the configured folders or scenes."""
    data = config.data
    if not data.roots:
        size = max(data.crop, data.val_crop) + 32  # some room for random crops
        train = loader.SceneSource(config.seed, 0, data.scenes, size, size)
        val = loader.SceneSource(config.seed, data.scenes, data.val_scenes, size, size)
        return train, val
    found = pairs.find_pairs([root.strip() for root in data.roots.split(",")])
    train, val = pairs.split_pairs(
        found, data.train_split, data.val_split, data.val_fraction
    )
    if not val:
        raise UserError(
            "No pair is left for validation: raise config.data.val_fraction or name "
            "some with config.data.val_split=FILE."
        )
    return (
        loader.PairSource(train, min_size=data.crop),
        loader.PairSource(val, min_size=data.val_crop),
    )


def load_teacher(directory: str | Path) -> tuple[Teacher, Params]:
    """A trained teacher and its parameters.

    Raises:
      UserError: the directory holds no teacher.
    """
    model = Model.load(directory)
    if not isinstance(model.network, Teacher):
        raise UserError(
            f"config.teacher.dir={directory} holds a student, not a teacher: give the "
            "workdir of a run of configs/teacher.py."
        )
    return model.network, model.params


def _compare_rules(model: ConfigDict, teacher: Teacher) -> None:
    """Says so on stderr where the student's global skip fuses unlike its teacher."""
    skip = model.skip_alpha, model.skip_damping
    taught = teacher.alpha, teacher.damping
    if model.global_skip and skip != taught and jax.process_index() == 0:
        print(
            f"Warning: the global skip fuses with alpha {skip[0]:g} and damping "
            f"{skip[1]:g}, the teacher with {taught[0]:g} and {taught[1]:g}, which the "
            f"student must make up for; --config.model.skip_alpha={taught[0]:g} "
            f"--config.model.skip_damping={taught[1]:g} agree with it.",
            file=sys.stderr,
        )


class Run:
    """One training run: its mesh, data, compiled steps and lengths.

    Attributes:
      config: locked configuration.
      teacher: the network that is trained, or that a student learns from.
      frozen: parameters that are used and not trained: the teacher's, or VGG16's.
      frozen_fingerprint: of `frozen`; a resumed run must find the same.
      epoch_steps: steps an epoch.
      total_steps: steps of the run.
    """

    def __init__(self, config: ConfigDict):
        """Opens the data and the frozen networks; compiles nothing yet.

        Raises:
          UserError: data, teacher or VGG16 weights are not as they must be.
        """
        self.config = config
        self.teacher, frozen = steps.build_teacher(config), {}
        if config.kind == "student":
            trained, frozen = load_teacher(config.teacher.dir)
            self.teacher = trained.clone(dtype=self.teacher.dtype)
            _compare_rules(config.model, trained)
        elif config.loss.percep:
            frozen = vgg.load(config.loss.vgg_path)
        self.frozen_fingerprint = weights.fingerprint(frozen)
        self.train_source, self.val_source = open_sources(config)

        samples = loader.epoch_samples(
            len(self.train_source), config.data.samples_per_epoch
        )
        self.epoch_steps = schedules.steps_per_epoch(config, samples)
        self.total_steps = config.train.epochs * self.epoch_steps
        self.mesh: Mesh = sharding.make_mesh(config.mesh.data)
        self.whole = sharding.replicated(self.mesh)
        self.frozen = jax.device_put(frozen, self.whole)
        self._compiled: dict[str, Callable] = {}

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, without its arrays."""
        shapes = jax.eval_shape(self._fresh_state, {})
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.whole),
            shapes,
        )

    def _fresh_state(self, start: Params) -> TrainState:
        params = steps.init_params(self.config)
        for part, tree in start.items():
            params[part] = {**params[part], **tree}
        return create(self.config, params)

    def init_state(self) -> TrainState:
        """The state at step 0, born on the mesh.

        Raises:
          UserError: `config.init_from` does not fit the run.
        """
        start = {}
        if self.config.init_from:  # only here: a resumed run needs it no more
            wanted = self.abstract_state().params
            start = load_start(self.config.init_from, self.config.scale, wanted)
            if self.config.init_freeze and "upsampler" not in start["sr"]:
                raise UserError(
                    "config.init_freeze would keep an upsampler with random weights: "
                    f"config.init_from={self.config.init_from} is of another scale."
                )
        # It runs once: on a CPU, optimising it takes longer than all else it does.
        quickly = {"xla_backend_optimization_level": 0}
        fresh = jax.jit(
            self._fresh_state, out_shardings=self.whole, compiler_options=quickly
        )
        return fresh(jax.device_put(start, self.whole))

    def phase_at(self, step: int) -> int:
        """The phase of a step; a teacher's run is all one phase."""
        if self.config.kind == "teacher":
            return 1
        return schedules.phase_at(self.config, step, self.epoch_steps)

    def train_step(self, phase: int) -> steps.TrainStep:
        """The jitted step of a phase; the state is donated."""
        name = f"train{phase}"
        if name not in self._compiled:
            step = steps.train_step(self.config, self.teacher, phase, self.total_steps)
            self._compiled[name] = sharding.jit_train_step(step, self.mesh)
        return self._compiled[name]

    def val_step(self) -> steps.ValStep:
        """The jitted validation step."""
        if "val" not in self._compiled:
            if self.config.kind == "teacher":
                step = steps.teacher_val_step(self.config)
            else:
                step = steps.student_val_step(self.config, self.teacher)
            step = sharding.on_mesh(step, self.mesh)
            self._compiled["val"] = jax.jit(step, out_shardings=self.whole)
        return self._compiled["val"]

    def batches(self) -> Iterator:
        """Endless training batches; the iterator's state can be saved and set."""
        batch_size = self.config.train.batch_size
        return loader.train_batches(
            self.train_source,
            crop=self.config.data.crop,
            batch_size=batch_size,
            samples_per_epoch=self.config.data.samples_per_epoch,
            seed=self.config.seed,
            max_shrink=self.config.data.max_shrink,
            rows=sharding.local_rows(self.mesh, batch_size),
        )

    def validate(
        self, params: Params, with_metrics: bool = False
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Means over the validation pairs, and pictures of the first of them.

        Args:
          params: of the network that is trained.
          with_metrics: also the fusion metrics that `val_metrics` names.
        """
        # About 4 images, and divisible by the devices.
        batch_size = self.mesh.size * max(1, 4 // self.mesh.size)
        batches = loader.val_batches(
            self.val_source,
            crop=self.config.data.val_crop,
            batch_size=batch_size,
            rows=sharding.local_rows(self.mesh, batch_size),
        )
        return validation.validate(
            partial(self.val_step(), params, self.frozen),
            batches,
            self.val_source.names,
            self.mesh,
            self.config.val_samples,
            metrics.select(self.config.val_metrics) if with_metrics else (),
        )


def train(run: Run, workdir: str | Path, checkpoints: Any, writer: Any) -> bool:
    """Trains from the last checkpoint, or from the start, to the end.

    Keeps the weights with the best validation PSNR as a model directory in `workdir`,
    averaged where `optim.ema` is on.

    Args:
      run: what is trained.
      workdir: folder of the run.
      checkpoints: an open `checkpoint.Checkpoints`.
      writer: an open `writers.Writer`.

    Returns:
      True when the run is complete, False when SIGTERM ended it early (saved).

    Raises:
      UserError: too many steps in a row without a finite loss and gradient.
    """
    config = run.config
    batches = run.batches()
    state, best, start = _restore_or_init(run, batches, checkpoints)
    stop = processes.Stop(run.mesh)
    pending: list[dict[str, jax.Array]] = []
    bar = _progress(run, start)
    try:
        with jax.transfer_guard("disallow"):
            for step in range(start, run.total_steps):
                batch = sharding.put_batch(next(batches), run.mesh)
                state, scalars = run.train_step(run.phase_at(step))(
                    state, run.frozen, batch
                )
                pending.append(scalars)
                if len(pending) > _AHEAD:
                    jax.block_until_ready(pending[-1 - _AHEAD])
                done = step + 1
                asked = stop.asked()  # once: it may turn true at any line
                last = done == run.total_steps or asked
                if done % config.log_every_steps == 0 or last:
                    _log(run, writer, bar, done, pending, state)
                    pending = []
                if _is_validation(run, done):
                    best = _validate_and_keep(run, workdir, writer, done, state, best)
                due = done % config.checkpoint_every_steps == 0
                # A state that has just blown up must not replace a good one.
                if last or (due and not _bad_row(run, done, state)):
                    meta = {
                        "best": best,
                        "frozen": run.frozen_fingerprint,
                        "config": config.to_dict(),
                    }
                    checkpoints.save(done, state, batches.get_state(), meta)
                if asked:
                    return done == run.total_steps
    finally:
        stop.restore()
        bar.close()
        checkpoints.wait()
    return True


def _restore_or_init(
    run: Run, batches: Any, checkpoints: Any
) -> tuple[TrainState, float | None, int]:
    """State, best validation PSNR so far, and the step to go on from."""
    step = checkpoints.latest_step()
    if step is None:
        return run.init_state(), None, 0
    state, data, meta = checkpoints.restore(run.abstract_state())
    if meta["frozen"] != run.frozen_fingerprint:
        raise UserError(
            "The teacher (or VGG16 file) of this run has changed since it began: put "
            "the old one back, or start in a new workdir."
        )
    batches.set_state(data)
    return state, meta["best"], step


def _progress(run: Run, start: int) -> tqdm:
    batch = run.config.train.batch_size
    return tqdm(
        total=run.total_steps * batch,
        initial=start * batch,
        unit="img",
        desc=run.config.kind,
        disable=jax.process_index() != 0,
        file=sys.stderr,
        smoothing=0.1,
        mininterval=1.0,
        maxinterval=60.0,
    )


def _log(
    run: Run,
    writer: Any,
    bar: tqdm,
    done: int,
    pending: list[dict[str, jax.Array]],
    state: TrainState,
) -> None:
    """Means over the steps since the last log; stops a run that gets nowhere."""
    rows = jax.device_get(pending)
    means = {f"train/{k}": float(np.mean([r[k] for r in rows])) for k in rows[0]}
    means["train/skipped"] = float(rows[-1]["skipped"])
    phase = run.phase_at(done - 1)
    writer.scalars(done, means | {"train/phase": float(phase)})
    bar.update(done * run.config.train.batch_size - bar.n)
    bar.set_postfix(phase=phase, loss=f"{means['train/loss']:.4g}", refresh=False)
    _bad_row(run, done, state)


def _bad_row(run: Run, done: int, state: TrainState) -> int:
    """Number of steps without a finite loss and gradient that lie just before.

    Raises:
      UserError: there were `max_bad_steps` of them in a row, now or since last asked.
    """
    bad_row = int(jax.device_get(state.bad_row))
    if bad_row >= run.config.max_bad_steps:
        raise UserError(
            f"The loss or its gradient was not finite for {bad_row} steps in a row "
            f"before step {done}: lower config.optim.lr or set config.optim.clip_norm; "
            "the last good checkpoint stays in the workdir."
        )
    return bad_row


def _is_validation(run: Run, done: int) -> bool:
    every = run.config.val_every_epochs * run.epoch_steps
    return done % every == 0 or done == run.total_steps


def _is_scored(run: Run, done: int) -> bool:
    """Whether the validation after `done` steps computes the fusion metrics too."""
    every = run.config.val_metrics_every_epochs * run.epoch_steps
    return bool(run.config.val_metrics) and (
        done % every == 0 or done == run.total_steps
    )


def _validate_and_keep(
    run: Run,
    workdir: str | Path,
    writer: Any,
    done: int,
    state: TrainState,
    best: float | None,
) -> float | None:
    """Validates, writes scalars and pictures, keeps the best weights; the new best.

    In phase 1 the student's image comes from an untrained part: nothing is kept yet.
    """
    params = state.best_params()
    scalars, pictures = run.validate(params, with_metrics=_is_scored(run, done))
    writer.scalars(done, scalars)
    writer.images(done, pictures)
    student = run.config.kind == "student"
    if student and run.phase_at(done - 1) == 1 and done < run.total_steps:
        return best
    if best is not None and scalars["val/psnr"] <= best:
        return best
    if jax.process_index() == 0:
        kept = {k: v for k, v in params.items() if k != "adapter"}
        weights.save_model(workdir, describe(run.config), jax.device_get(kept))
    return scalars["val/psnr"]
