"""Whole small runs in one process: trained, ended early, compared."""

import contextlib
import copy
import signal

import jax
import numpy as np

from hkdnet_jax.model_files import file_format
from hkdnet_jax.training import loop
from hkdnet_jax.training.checkpoint import Checkpoints
from hkdnet_jax.training.writers import Writer

STEPS = 12  # of the fixture `run`: 3 epochs of 4; the first is phase 1
TOO_MANY = 2  # bad steps in a row


def train(run, workdir):
    """What `main.run` does around `train`."""
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir)))
        beginning = loop.begin(run, checkpoints)
        writer = Writer(workdir, start_step=beginning.step, tensorboard=False)
        stack.enter_context(contextlib.closing(writer))
        return loop.train(run, workdir, checkpoints, writer, beginning)


def restore(run, workdir):
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.restore(run.abstract_state())


def latest(workdir):
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.latest_step()


def assert_same_end(run, workdir, other):
    """Weights kept, state and place in the data are equal to the last bit."""
    kept, expected = (file_format.load_model(folder) for folder in (workdir, other))
    jax.tree.map(np.testing.assert_array_equal, kept, expected)
    (state, data, meta), expected = restore(run, workdir), restore(run, other)
    jax.tree.map(np.testing.assert_array_equal, state, expected[0])
    assert (data, meta) == expected[1:]


def changed(run, **config):
    """The same compiled steps under a config that differs outside of them."""
    other = copy.copy(run)
    other.config = run.config.copy_and_resolve_references()
    other.config.update(config)
    return other


def wrapped(run, wrap):
    """The run with `wrap(step_function, done)` in place of each step function.

    `done` counts the steps of the whole run, so it needs a state that says its step.
    """
    other = copy.copy(run)

    def train_step(phase):
        compiled = run.train_step(phase)

        def step(state, frozen, batch):
            done = int(jax.device_get(state.step)) + 1
            return wrap(compiled, done)(state, frozen, batch)

        return step

    other.train_step = train_step
    return other


def terminated_at(run, at):
    """The run, sent a SIGTERM in its step `at`."""

    def wrap(compiled, done):
        if done == at:
            signal.raise_signal(signal.SIGTERM)
        return compiled

    return wrapped(run, wrap)
