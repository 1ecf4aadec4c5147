"""One training run: its data, networks, mesh and compiled steps."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines import loader, pairs, records, splits
from data_pipelines.unreadable import Replacing
from hkdnet_jax import metrics
from hkdnet_jax.common import trees
from hkdnet_jax.common.arrays import to_float
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.losses import vgg
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.runtime import memory, sharding
from hkdnet_jax.training import networks, schedules, steps, val_steps, validation, views
from hkdnet_jax.training.networks import load_start, load_teacher
from hkdnet_jax.training.optimizer import make_optimizer
from hkdnet_jax.training.revive import revive_units
from hkdnet_jax.training.state import Params, TrainState, create

# Number of training pairs that show which of a teacher's units are dead.
_JUDGES = 16
_ROOM = 32  # pixels of a made scene beyond the crop, so that crops differ


def open_sources(config: ConfigDict) -> tuple[Any, Any]:
    """Opens the training and validation sources: the configured pairs, or scenes.

    Raises:
      UserError: no pair is left for training or validation, or folders, split files or
        pictures cannot be used.
    """
    data = config.data
    # Each process that loads batches has a cache of its own.
    cache = int(data.cache_gib * loader.GIB) // max(1, data.processes)
    if not (data.roots or data.tfds):
        size = max(data.crop, data.val_crop) + _ROOM
        train = loader.SceneSource(config.seed, 0, data.scenes, size, size, cache)
        val = loader.SceneSource(config.seed, data.scenes, data.val_scenes, size, size)
        return train, val
    if data.tfds:
        found = records.find_pairs(data.tfds, data.tfds_dir)
    else:
        found = pairs.find_pairs([root.strip() for root in data.roots.split(",")])
    train, val = splits.split_pairs(
        found, data.train_split, data.val_split, data.val_fraction
    )
    if not val:
        raise UserError(
            "No pair is left for validation: raise config.data.val_fraction or name "
            "some with config.data.val_split=FILE."
        )
    stored = Replacing(loader.PairSource(train, data.crop, cache), data.max_unreadable)
    val_source = loader.PairSource(val, min_size=data.val_crop)
    if not data.added_scenes:
        return stored, val_source
    side = round(data.max_shrink * data.crop) + _ROOM
    scenes = loader.SceneSource(config.seed, 0, data.added_scenes, side, side, cache)
    return loader.Together([stored, scenes]), val_source


def _copy_fusion_rule(config: ConfigDict, teacher: Teacher) -> None:
    """Writes the teacher's fusion rule into a student's configuration.

    Raises:
      UserError: the configuration sets another rule, or a student for every factor
        would learn from a vivid teacher.
    """
    if teacher.context and views.is_continuous(config):
        # For a reduced pair that teacher's context would change with the factor.
        raise UserError(
            f"config.model.upsampler is {config.model.upsampler}, but the teacher in "
            f"{config.teacher.dir} is vivid, from which only students of one scale "
            "learn: train one of these, or take a balanced teacher."
        )
    for name in ("alpha", "damping"):
        configured, actual = config.teacher[name], getattr(teacher, name)
        if configured not in (None, actual):
            raise UserError(
                f"config.teacher.{name} is {configured:g}, but the teacher in "
                f"{config.teacher.dir} fuses with {actual:g}: leave the key out, or "
                "train a teacher with this value."
            )
        config.teacher[name] = actual


def _warn_of_other_skip(config: ConfigDict, teacher: Teacher) -> None:
    """Warns on stderr if the student's global skip fuses unlike its teacher."""
    model = config.model
    taught = {"skip_context": teacher.context / config.scale}
    if not teacher.context:
        taught = {"skip_alpha": teacher.alpha, "skip_damping": teacher.damping} | taught
    other = [name for name, value in taught.items() if model[name] != value]
    if model.global_skip and other and jax.process_index() == 0:
        has = ", ".join(f"{name} is {model[name]:g}" for name in other)
        remedy = " ".join(f"--config.model.{name}={v:g}" for name, v in taught.items())
        print(
            f"Warning: the global skip fuses unlike the teacher ({has}), and the "
            f"student must make up for the difference; to avoid it, set {remedy}.",
            file=sys.stderr,
        )


class Run:
    """One training run: its mesh, data, optimizer, compiled steps and lengths.

    What it trains, a teacher or a student, is in the methods `describe`, `open_frozen`,
    `init_params`, `load_start`, `make_step` and `make_val_step`, which a subclass for
    other networks overrides.

    Attributes:
      config: locked configuration.
      teacher: the network that is trained, or the one that a student learns from; None
        for other networks.
      criterion: the value of the validation (`val/...`) that the best weights have the
        highest of.
      frozen: parameters that are used but not trained: the teacher's or VGG16's.
      frozen_fingerprint: fingerprint of `frozen`; it must be the same when a run is
        resumed.
      epoch_steps: number of steps per epoch.
      total_steps: number of steps in the run.
      mesh: the devices that share the work.
      replicated: sharding of the state and the frozen parameters.
      optimizer: the optimizer for both phases.
    """

    criterion = "psnr"

    def __init__(self, config: ConfigDict):
        """Opens the data and the frozen networks; compiles nothing yet.

        For a student's run, its teacher's fusion rule is written into `config.teacher`.

        Raises:
          UserError: the data, the teacher or the VGG16 weights cannot be used.
        """
        self.config = config
        self.teacher, frozen = self.open_frozen()
        self.frozen_fingerprint = trees.fingerprint(frozen)
        self.train_source, self.val_source = open_sources(config)

        samples = loader.epoch_samples(
            len(self.train_source), config.data.samples_per_epoch
        )
        self.epoch_steps = schedules.steps_per_epoch(config, samples)
        self.total_steps = config.train.epochs * self.epoch_steps
        self.mesh: Mesh = sharding.make_mesh(config.mesh.data)
        self.replicated = sharding.replicated(self.mesh)
        self.frozen = jax.device_put(frozen, self.replicated)
        self._params = jax.eval_shape(self.init_params)
        self.optimizer = make_optimizer(
            config, self._params, self.epoch_steps, self.total_steps
        )
        self._programs: dict[str, Callable] = {}

    @staticmethod
    def describe(config: ConfigDict) -> dict[str, Any]:
        """What the model directory of a run says of its network."""
        return networks.describe_network(config)

    def open_frozen(self) -> tuple[Teacher | None, Params]:
        """Opens what is used but not trained: the teacher, and frozen parameters."""
        config = self.config
        if config.kind == "student":
            teacher, frozen = load_teacher(config.teacher.dir)
            _copy_fusion_rule(config, teacher)
            _warn_of_other_skip(config, teacher)
            return teacher, frozen
        percep = config.loss.percep
        frozen = vgg.load(config.loss.vgg_path) if percep else {}
        return networks.build_teacher(config), frozen

    def init_params(self) -> Params:
        """Initial parameters of the network that is trained; traceable."""
        return networks.init_params(self.config)

    def _placed(self, tree: Any) -> Any:
        """Shapes and dtypes of a tree of arrays that is replicated on every device."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            tree,
        )

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, without its arrays."""
        return self._placed(
            jax.eval_shape(partial(create, self.config, self.optimizer), self._params)
        )

    def _fresh_state(self, start: Params) -> TrainState:
        flat = traverse_util.flatten_dict(self.init_params())
        flat |= traverse_util.flatten_dict(start)
        params = traverse_util.unflatten_dict(flat)
        return create(self.config, self.optimizer, params)

    def init_state(self) -> TrainState:
        """The state at step 0, created on the mesh.

        Raises:
          UserError: `config.init_from` does not fit the run.
        """
        # Only here: a resumed run no longer needs what it started from.
        start = self.load_start(self._params) if self.config.init_from else {}
        # It runs once, and on a CPU optimising it would take longer than running it.
        unoptimized = {"xla_backend_optimization_level": 0}
        fresh = jax.jit(
            self._fresh_state,
            out_shardings=self.replicated,
            compiler_options=unoptimized,
        )
        return fresh(jax.device_put(start, self.replicated))

    def load_start(self, wanted: Params) -> Params:
        """Reads what the run takes over from `config.init_from`, nested as `wanted`.

        Args:
          wanted: the parameters that the run has, as jax.ShapeDtypeStruct.

        Raises:
          UserError: `config.init_from` does not fit the run.
        """
        config = self.config
        start = load_start(config.init_from, wanted)
        given = start.get("sr", {}).get("upsampler", {})
        if config.init_freeze and given.keys() != wanted["sr"]["upsampler"].keys():
            raise UserError(
                "config.init_freeze would keep an upsampler with random weights: "
                f"config.init_from={config.init_from} has another one."
            )
        return self._revived(start) if config.init_revive else start

    def _revived(self, start: Params) -> Params:
        """The teacher's parameters without dead units, as judged by training pairs."""
        crop = self.config.data.crop
        batches = loader.val_batches(self.train_source, crop=crop, batch_size=_JUDGES)
        batch = next(iter(batches))
        images = to_float(np.concatenate([batch["ir"], batch["vis"]]))
        key = jax.random.key(self.config.seed)
        return jax.jit(revive_units, static_argnums=0)(self.teacher, start, key, images)

    def phase_at(self, step: int) -> int:
        """The phase of a step, 1 or 2; only a student's run has phase 2."""
        return schedules.phase_at(self.config, step, self.epoch_steps)

    def train_step(self, phase: int) -> steps.TrainStep:
        """The training step of a phase, to which the state is donated."""
        return self._program(f"phase {phase}")

    def val_step(self) -> val_steps.ValStep:
        """The validation step."""
        return self._program("validation")

    def _program(self, name: str) -> Any:
        """A step by its name: compiled by `compile`, or else at its first call."""
        if name not in self._programs:
            self._programs[name] = self._jitted(name)
        return self._programs[name]

    def _jitted(self, name: str) -> Callable[..., Any]:
        if name != "validation":
            step = self.make_step(int(name.removeprefix("phase ")))
            return sharding.jit_train_step(step, self.mesh)
        step = sharding.on_mesh(self.make_val_step(), self.mesh)
        return jax.jit(step, out_shardings=self.replicated)

    def make_step(self, phase: int) -> steps.TrainStep:
        """The training step of a phase, not yet jitted."""
        return steps.train_step(self.config, self.optimizer, self.teacher, phase)

    def make_val_step(self) -> val_steps.ValStep:
        """The validation step, not yet jitted."""
        if self.config.kind == "teacher":
            return val_steps.teacher_val_step(self.config)
        return val_steps.student_val_step(self.config, self.teacher)

    def compile(self, start: int) -> None:
        """Compiles every program that the run needs from step `start` on.

        Call it when the state is on the devices. It reports on stderr how much memory
        each program takes. A run that does not fit therefore stops here, and not at the
        first step of phase 2 or at the first validation.

        Raises:
          UserError: a program takes more memory than is free.
        """
        if start >= self.total_steps:
            return
        data, batch_size = self.config.data, self.config.train.batch_size
        state, frozen = self.abstract_state(), self._placed(self.frozen)
        crops = self._abstract_batch(data.crop, batch_size)
        for phase in range(
            self.phase_at(start), self.phase_at(self.total_steps - 1) + 1
        ):
            self._compile(f"phase {phase}", state, frozen, crops)
        size = self._val_batch_size()
        crops = self._abstract_batch(data.val_crop, size)
        mask = self._abstract((size,), jnp.float32)
        params = state.best_params()
        self._compile("validation", params, frozen, crops | {"mask": mask})

    def _abstract(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        placed = sharding.split_batch(self.mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)

    def _abstract_batch(self, crop: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        crops = self._abstract((size, crop, crop, 1), jnp.uint8)
        return {"ir": crops, "vis": crops}

    def _compile(self, name: str, *args: Any) -> None:
        step, device = self._program(name), self.mesh.local_devices[0]
        if isinstance(step, jax.stages.Compiled):
            return
        free = memory.free(device)
        try:
            program = step.lower(*args).compile()
        except jax.errors.JaxRuntimeError as error:
            if not memory.is_exhausted(error):
                raise
            raise UserError(
                _does_not_fit(name, "more than the available", free)
            ) from error
        beyond, with_arguments = (
            memory.needed_bytes(program, device, self.mesh.size, arguments)
            for arguments in (False, True)
        )
        text = memory.format_bytes(with_arguments)
        if jax.process_index() == 0:
            share = "in all" if device.platform == "cpu" else "per device"
            print(f"Compiled {name}: takes about {text} {share}.", file=sys.stderr)
        if beyond > free:  # the state and the frozen parameters are in memory already
            raise UserError(_does_not_fit(name, f"about {text} of", free))
        self._programs[name] = program

    def batches(self) -> Iterator:
        """Endless training batches; the iterator's state can be saved and restored."""
        batch_size = self.config.train.batch_size
        return loader.train_batches(
            self.train_source,
            crop=self.config.data.crop,
            batch_size=batch_size,
            samples_per_epoch=self.config.data.samples_per_epoch,
            seed=self.config.seed,
            max_shrink=self.config.data.max_shrink,
            rows=sharding.local_rows(self.mesh, batch_size),
            threads=self.config.data.threads,
            processes=self.config.data.processes,
        )

    def _val_batch_size(self) -> int:
        """About 4 images, and divisible by the number of devices."""
        return self.mesh.size * max(1, 4 // self.mesh.size)

    def validate(
        self,
        params: Params,
        with_metrics: bool = False,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> tuple[dict[str, float], dict[str, Any]] | None:
        """Computes means over the validation pairs, and pictures of the first ones.

        Args:
          params: parameters of the network that is trained.
          with_metrics: whether to compute the metrics that `val_metrics` names too.
          stop_requested: called before each batch; True ends the validation.

        Returns:
          The means and pictures of `validation.validate`; None if it was ended early.

        Raises:
          UserError: a file is broken, or a picture is smaller than the crop.
        """
        batch_size = self._val_batch_size()
        batches = loader.val_batches(
            self.val_source,
            crop=self.config.data.val_crop,
            batch_size=batch_size,
            rows=sharding.local_rows(self.mesh, batch_size),
            threads=self.config.data.threads,
        )
        return validation.validate(
            partial(self.val_step(), params, self.frozen),
            batches,
            self.val_source.names,
            self.mesh,
            self.config.val_samples,
            metrics.select(self.config.val_metrics) if with_metrics else (),
            stop_requested,
        )


def _does_not_fit(name: str, needed: str, free: int) -> str:
    return (
        f"The program of {name} takes {needed} memory, and "
        f"{memory.format_bytes(free)} are free: lower config.train.batch_size, "
        "config.data.crop or config.data.val_crop, or use more devices."
    )
