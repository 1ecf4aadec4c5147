"""Runs that must learn something, not only run: tiny networks, on drawn scenes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_fixtures import read_rows, student_config, teacher_config

from data_pipelines import loader
from hkdnet_jax import pretrained
from hkdnet_jax.common.arrays import degrade, to_float
from hkdnet_jax.training import loop
from hkdnet_jax.training.checkpoint import Checkpoints
from hkdnet_jax.training.networks import build_student
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.writers import Writer


def _train(run, workdir):
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir)))
        writer = Writer(workdir, tensorboard=False)
        stack.enter_context(contextlib.closing(writer))
        beginning = loop.begin(run, checkpoints)
        assert loop.train(run, workdir, checkpoints, writer, beginning)
    return read_rows(workdir)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Workdir and rows of a teacher's run of 120 steps."""
    workdir = tmp_path_factory.mktemp("teacher")
    config = teacher_config()
    config.train.epochs = 30  # of 4 steps
    config.train.batch_size = 4
    config.data.samples_per_epoch = 16
    config.val_every_epochs = 15
    config.log_every_steps = 10
    config.checkpoint_every_steps = 1000
    config.optim.lr = 3e-3
    config.optim.clip_norm = 100.0
    config.optim.warmup_steps = 10
    config.optim.schedule = "cosine"  # ends calmly, whatever the rounding
    return workdir, _train(Run(config), workdir)


def test_a_teacher_learns_to_reconstruct(teacher):
    _, rows = teacher
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] / 40
    psnr = [row["val/psnr"] for row in rows if "val/psnr" in row]
    assert psnr[-1] > 30.0


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """Run, end state and rows of a student: 60 steps of phase 1, 120 of phase 2."""
    workdir = tmp_path_factory.mktemp("student")
    config = student_config(pretrained.locate("teacher", 1))
    config.model.global_skip = False  # which alone would give the picture away
    config.train.epochs, config.train.phase1_epochs = 45, 15
    config.val_every_epochs = 15
    config.log_every_steps = 10
    config.checkpoint_every_steps = 1000
    config.optim.lr = 2e-3
    run = Run(config)
    rows = _train(run, workdir)
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        state, *_ = checkpoints.restore(run.abstract_state())
    return run, state, rows


def test_a_student_learns_in_each_phase(student):
    _, _, rows = student
    of_phase = {
        phase: [row["train/loss"] for row in rows if row.get("train/phase") == phase]
        for phase in (1, 2)
    }
    for phase, losses in of_phase.items():
        assert losses[-1] < losses[0] / 2, phase
    before, *_, after = (row["val/psnr"] for row in rows if "val/psnr" in row)
    assert after > before + 3.0


def _alive_of_teacher(run):
    """Share of the teacher's 16 channels that fire in a picture, as `val/alive`."""
    shares = []
    for batch in loader.val_batches(run.val_source, crop=32, batch_size=1):
        low = (degrade(to_float(batch[key]), 2) for key in ("ir", "vis"))
        _, out = jax.jit(run.teacher.apply)({"params": run.frozen}, *low)
        shares.append(np.any(np.asarray(out["decoder3"]) > 0, axis=(0, 1, 2)).mean())
    return np.mean(shares)


def test_phase_1_leaves_the_decoder_alive(student):
    """Else nothing would reach the part that enlarges, which phase 2 trains."""
    run, state, rows = student
    after_phase_1, *_ = (row["val/alive"] for row in rows if "val/alive" in row)
    # What Eq. 22 draws it to is as alive as the teacher is.
    assert after_phase_1 >= 0.9 * _alive_of_teacher(run) > 0.1
    # The gradient of phase 2 does reach the fusion part.
    low = jnp.asarray(run.val_source[0]["ir"][None, :32, :32] / np.float32(255))
    network = build_student(run.config)

    def brightness(fusion):
        params = {"fusion": fusion, "sr": state.params["sr"]}
        return network.apply({"params": params}, low, low)[0].mean()

    gradient = jax.grad(brightness)(state.params["fusion"])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
