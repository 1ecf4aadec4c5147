"""Measures how fast a student trains: the real step, fed by the real loader."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines import loader
from hkdnet_jax.measuring import flops
from hkdnet_jax.measuring.measure import (
    Row,
    Settings,
    Size,
    compiled,
    process_row,
    size_text,
    statistics,
)
from hkdnet_jax.measuring.networks import COUNTED_ATTENTION, random_params
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training import networks, steps
from hkdnet_jax.training.config import default_config, use_preset
from hkdnet_jax.training.optimizer import Optimizer, make_optimizer
from hkdnet_jax.training.state import Params, TrainState, create

_SCENES = 8
_ROOM = 32  # rows and columns of a scene beyond the crop, as in training
# More batches than the loader keeps ready: the loop then starts with an empty buffer,
# as if it had been running for long.
_DRAINED_BATCHES = 16
_EPOCH_STEPS = 10**6  # length of the only epoch, more steps than are timed


def measure_train(settings: Settings, size: Size, phase: int) -> list[Row]:
    """Times a student's real train step, fed by the real loader with procedural scenes.

    The teacher, with random weights, is part of the step, as in a real run.  The scenes
    have been rendered before, as after the first epoch of a run.  The loop waits for
    the end of every step.

    Args:
      settings: settings of the run; the batch is split over all devices.
      size: (height, width) of the square LOW-resolution crop, in pixels.
      phase: 1 or 2.

    Returns:
      One row; `seconds` are for a step with its input, and `input_wait_share` is the
      time for which the loop waited for its next batch, over the time of the loop.
    """
    config = _train_config(settings, size, phase)
    mesh = sharding.make_mesh(config.mesh.data)
    replicated = sharding.replicated(mesh)
    params = random_params(jax.eval_shape(lambda: networks.init_params(config)))
    optimizer = make_optimizer(config, params, _EPOCH_STEPS, _EPOCH_STEPS)
    make_state = partial(create, config, optimizer)
    state = jax.jit(make_state, out_shardings=replicated)(params)
    teacher = random_params(jax.eval_shape(lambda: networks.init_teacher(config)))
    teacher = jax.device_put(teacher, replicated)
    batches = _batches(config)
    first = sharding.put_batch(next(batches), mesh)
    step = sharding.jit_train_step(_step(config, optimizer, phase), mesh)
    program, compile_seconds = compiled(step, state, teacher, first)
    shapes = jax.eval_shape(lambda *args: args, state, teacher, first)
    state, _ = jax.block_until_ready(program(state, teacher, first))
    seconds, waits = _run_steps(
        program, state, teacher, batches, mesh, settings.repeats
    )
    process = process_row()  # before the operations are counted, which takes memory
    config.attention = COUNTED_ATTENTION
    operations = flops.count(_step(config, optimizer, phase), *shapes)
    middle = median(seconds)
    row = {
        "size": size_text(size),
        "batch": settings.batch,
        "phase": phase,
        **statistics(seconds),
        "compile_seconds": compile_seconds,
        "gflops": operations / middle / 1e9,
        "samples_per_second": settings.batch / middle,
        "input_wait_share": sum(waits) / sum(seconds),
    }
    return [row | process]


def fed(
    settings: Settings,
    size: Size,
    phase: int,
    feeds: Mapping[str, Iterator[dict[str, np.ndarray]]],
) -> dict[str, Row]:
    """Times one compiled step with batches from several loaders.

    Args:
      settings: settings of the run.
      size: (height, width) of the square LOW-resolution crop, in pixels.
      phase: 1 or 2.
      feeds: endless batches by name, which are closed in the end.

    Returns:
      For each name: `step_seconds`, the median of a step with its input;
      `step_cpu_seconds`, the mean CPU time of the process for it, with what loads the
      next batches meanwhile; `input_wait_share`, see `measure_train`.
    """
    config = _train_config(settings, size, phase)
    mesh = sharding.make_mesh(config.mesh.data)
    replicated = sharding.replicated(mesh)
    params = random_params(jax.eval_shape(lambda: networks.init_params(config)))
    optimizer = make_optimizer(config, params, _EPOCH_STEPS, _EPOCH_STEPS)
    make_state = jax.jit(partial(create, config, optimizer), out_shardings=replicated)
    teacher = random_params(jax.eval_shape(lambda: networks.init_teacher(config)))
    teacher = jax.device_put(teacher, replicated)
    step = sharding.jit_train_step(_step(config, optimizer, phase), mesh)
    found = {}
    for name, batches in feeds.items():
        state, _ = step(
            make_state(params), teacher, sharding.put_batch(next(batches), mesh)
        )
        marks: list[float] = []

        def marked(*args: Any, marks: list[float] = marks) -> Any:
            marks.append(time.process_time())
            return step(*args)

        seconds, waits = _run_steps(
            marked, state, teacher, batches, mesh, settings.repeats
        )
        cpu_seconds = time.process_time() - marks[0]  # without what was drained before
        batches.close()
        found[name] = {
            "step_seconds": median(seconds),
            "step_cpu_seconds": cpu_seconds / settings.repeats,
            "input_wait_share": sum(waits) / sum(seconds),
        }
    return found


def example(
    settings: Settings, size: Size, phase: int
) -> tuple[steps.TrainStep, tuple[TrainState, Params, dict[str, np.ndarray]]]:
    """A student's train step, not jitted, and its arguments as host arrays.

    Args:
      settings: settings of the run.
      size: (height, width) of the square LOW-resolution crop, in pixels.
      phase: 1 or 2.
    """
    config = _train_config(settings, size, phase)
    params = random_params(jax.eval_shape(lambda: networks.init_params(config)))
    optimizer = make_optimizer(config, params, _EPOCH_STEPS, _EPOCH_STEPS)
    state = jax.device_get(create(config, optimizer, params))
    teacher = random_params(jax.eval_shape(lambda: networks.init_teacher(config)))
    return _step(config, optimizer, phase), (state, teacher, next(_batches(config)))


def _train_config(settings: Settings, size: Size, phase: int) -> ConfigDict:
    """The configuration of a run at these sizes: one epoch, all of it in one phase."""
    config = use_preset(default_config(), settings.preset)
    config.scale = settings.scale
    config.dtype = settings.dtype
    config.data.crop = settings.scale * size[0]
    config.train.batch_size = settings.batch
    config.train.epochs = 1
    config.train.phase1_epochs = 1 if phase == 1 else 0
    return config


def _batches(config: ConfigDict) -> Iterator[dict[str, np.ndarray]]:
    """Training batches of scenes that have been rendered before."""
    side = config.data.crop + _ROOM
    source = loader.SceneSource(config.seed, 0, _SCENES, side, side)
    for index in range(len(source)):
        source[index]
    return loader.train_batches(
        source,
        crop=config.data.crop,
        batch_size=config.train.batch_size,
        samples_per_epoch=config.data.samples_per_epoch,
        seed=config.seed,
    )


def _step(config: ConfigDict, optimizer: Optimizer, phase: int) -> steps.TrainStep:
    return steps.train_step(config, optimizer, networks.build_teacher(config), phase)


def _run_steps(
    program: Callable[..., Any],
    state: TrainState,
    teacher: Params,
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    count: int,
) -> tuple[list[float], list[float]]:
    """Seconds of each step, and the part of them spent waiting for its batch."""
    for _ in range(_DRAINED_BATCHES):
        next(batches)
    seconds, waits = [], []
    for _ in range(count):
        start = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - start)
        state, _ = program(state, teacher, sharding.put_batch(batch, mesh))
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    return seconds, waits
