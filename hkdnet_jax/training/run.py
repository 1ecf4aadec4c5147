"""One training run: its data, networks, mesh and compiled steps."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines import loader, pairs, splits
from hkdnet_jax import metrics
from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.losses import vgg
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training import networks, schedules, steps, validation
from hkdnet_jax.training.networks import load_start, load_teacher
from hkdnet_jax.training.state import Params, TrainState, create


def open_sources(config: ConfigDict) -> tuple[Any, Any]:
    """Training and validation sources of the configured folders or scenes."""
    data = config.data
    if not data.roots:
        size = max(data.crop, data.val_crop) + 32  # some room for random crops
        train = loader.SceneSource(config.seed, 0, data.scenes, size, size)
        val = loader.SceneSource(config.seed, data.scenes, data.val_scenes, size, size)
        return train, val
    found = pairs.find_pairs([root.strip() for root in data.roots.split(",")])
    train, val = splits.split_pairs(
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
        self.teacher, frozen = networks.build_teacher(config), {}
        if config.kind == "student":
            trained, frozen = load_teacher(config.teacher.dir)
            self.teacher = trained.clone(dtype=self.teacher.dtype)
            _compare_rules(config.model, trained)
        elif config.loss.percep:
            frozen = vgg.load(config.loss.vgg_path)
        self.frozen_fingerprint = trees.fingerprint(frozen)
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
        params = networks.init_params(self.config)
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
