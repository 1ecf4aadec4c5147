"""Whole small runs in this process: how they stop and go on."""

import copy
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loop_fixtures import (
    STEPS,
    assert_same_end,
    changed,
    latest,
    restore,
    terminated_at,
    train,
    wrapped,
)
from train_fixtures import read_rows, save_teacher, student_config

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.training.run import Run

# Stopping and going on


@pytest.mark.parametrize("stops", [(4,), (2, 3, 9)])
def test_a_terminated_run_goes_on_to_the_same_end(run, finished, tmp_path, stops):
    for at in stops:
        assert train(terminated_at(run, at), tmp_path) is False
        assert latest(tmp_path) == at, "saved where it stopped"
    assert train(run, tmp_path) is True
    assert_same_end(run, tmp_path, finished)
    steps = [row["step"] for row in read_rows(tmp_path) if "train/loss" in row]
    assert sorted(set(steps)) == steps
    assert set(steps) == {2, 4, 6, 8, 10, 12} | set(stops)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("data/metadata", b"9", b"8"), ("meta/metadata", b"false", b"true")],
)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    run, finished, tmp_path, capsys, file, old, new
):
    for at in (6, 9):
        train(terminated_at(run, at), tmp_path)
    steps = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    assert steps == {"6", "9"}
    damaged = tmp_path / "checkpoints" / "9" / file
    assert old in damaged.read_bytes()
    damaged.write_bytes(damaged.read_bytes().replace(old, new))
    assert train(run, tmp_path) is True
    assert "checkpoints/9 is damaged" in capsys.readouterr().err
    assert_same_end(run, tmp_path, finished)
    # The row of step 9 is gone, and those after it stand there once.
    assert read_rows(tmp_path) == read_rows(finished)


class TwiceAsLong:
    """A source of the same pairs twice, so that there are two batches."""

    def __init__(self, source):
        self.source, self.names = source, source.names * 2

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return self.source[index % len(self.source)]


def test_a_run_terminated_while_it_validates_saves_before_it_ends(
    run, finished, tmp_path
):
    other = copy.copy(run)

    batches = []

    def stop_in_the_second_batch(step):
        def counted(*args):
            batches.append(args)
            signal.raise_signal(signal.SIGTERM)
            return step(*args)

        return counted

    other.val_step = lambda: stop_in_the_second_batch(run.val_step())
    other.val_source = TwiceAsLong(run.val_source)
    assert train(other, tmp_path) is False
    assert len(batches) == 1, "the second batch is not begun"
    assert latest(tmp_path) == 4
    assert not [row for row in read_rows(tmp_path) if "val/psnr" in row]
    assert restore(run, tmp_path)[2]["validation_due"] is True
    # The next start makes up for it, and ends as if nothing had been.
    assert train(run, tmp_path) is True
    assert_same_end(run, tmp_path, finished)
    assert read_rows(tmp_path) == read_rows(finished)


def test_a_run_terminated_in_its_last_step_validates_at_the_next_start(
    run, finished, tmp_path
):
    assert train(terminated_at(run, STEPS), tmp_path) is False
    assert latest(tmp_path) == STEPS
    assert train(run, tmp_path) is True
    kept, expected = (file_format.load_model(path) for path in (tmp_path, finished))
    jax.tree.map(np.testing.assert_array_equal, kept, expected)
    assert read_rows(tmp_path) == read_rows(finished)


def test_the_signal_handler_of_before_is_put_back(run, tmp_path):
    def handler(*_):
        raise AssertionError("not while it trains")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        train(terminated_at(run, 1), tmp_path)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_finished_run_started_again_does_nothing(run, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}

    def wrap(*_):
        raise AssertionError("no step was to be taken")

    assert train(wrapped(run, wrap), workdir) is True
    after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    assert after == before


def test_a_finished_run_can_be_made_longer(run, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    longer = copy.copy(run)
    longer.total_steps = STEPS + 2
    assert train(longer, workdir) is True
    assert latest(workdir) == STEPS + 2


def test_a_teacher_that_changed_is_noticed(run, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    config = run.config.copy_and_resolve_references()
    config.teacher.dir = str(save_teacher(tmp_path / "other", seed=1))
    with pytest.raises(UserError, match=r"teacher.*changed") as caught:
        train(Run(config), workdir)
    assert "\n" not in str(caught.value)


# Numbers that are not finite


def _spoiled_at(run, bad_steps):
    """The run with a teacher of NaNs in some steps."""
    nans = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), run.frozen)
    nans = jax.device_put(nans, run.replicated)

    def wrap(compiled, done):
        if done in bad_steps:
            return lambda state, _, batch: compiled(state, nans, batch)
        return compiled

    return wrapped(run, wrap)


def test_a_few_bad_steps_are_skipped_and_counted(run, tmp_path):
    assert train(_spoiled_at(run, {6, 9}), tmp_path) is True
    rows = {row["step"]: row for row in read_rows(tmp_path) if "train/loss" in row}
    assert rows[6]["train/loss"] is None
    assert rows[8]["train/loss"] is not None
    assert [rows[step]["train/skipped"] for step in (4, 6, 8, 12)] == [0, 1, 1, 2]
    state, *_ = restore(run, tmp_path)
    assert state.step == STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("bad", "cadence"),
    [
        # The host looks only at the end of the run: it must still see the row of 2.
        ({7, 8}, {"log_every_steps": 100, "checkpoint_every_steps": 100}),
        # A checkpoint is due in and after the bad row.
        ({7, 8}, {"log_every_steps": 100, "checkpoint_every_steps": 1}),
        ({7, 8, 9, 10, 11, 12}, {"log_every_steps": 5}),
    ],
)
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    run, finished, tmp_path, bad, cadence
):
    seldom = changed(run, **cadence)
    with pytest.raises(UserError, match=r"not finite for [23] steps") as caught:
        train(_spoiled_at(seldom, bad), tmp_path)
    assert "config.optim.lr" in str(caught.value)
    last_good = None if cadence.get("checkpoint_every_steps") == 100 else 6
    assert latest(tmp_path) == last_good
    # From there the run goes on as if nothing had been.
    assert train(run, tmp_path) is True
    assert_same_end(run, tmp_path, finished)


def test_weights_that_explode_stop_the_run_and_spoil_no_checkpoint(
    run, finished, tmp_path
):
    """All numbers are finite until the network has multiplied them."""

    def wrap(compiled, done):
        if done != 7:  # the weights stay as large
            return compiled

        def exploded(state, frozen, batch):
            params = jax.tree.map(lambda x: x * 1e25, jax.device_get(state.params))
            params = jax.device_put(params, run.replicated)
            return compiled(state.replace(params=params), frozen, batch)

        return exploded

    often = changed(run, checkpoint_every_steps=1)
    with pytest.raises(UserError, match="not finite for 2 steps in a row"):
        train(wrapped(often, wrap), tmp_path)
    assert latest(tmp_path) == 6
    state = restore(run, tmp_path)[0]
    assert max(float(abs(x).max()) for x in jax.tree.leaves(state.params)) < 100
    assert train(run, tmp_path) is True
    assert_same_end(run, tmp_path, finished)


def test_the_same_seed_gives_the_same_bytes_on_four_devices(tiny_teacher, tmp_path):
    """On one device the tests of interrupted runs compare with an unbroken one."""
    config = student_config(tiny_teacher)
    config.mesh.data = config.train.batch_size = 4
    config.data.samples_per_epoch = 16
    config.train.epochs = 1
    config.train.phase1_epochs = 0
    run = Run(config)
    for name in ("one", "two"):
        assert train(run, tmp_path / name) is True
        assert len(run.mesh.devices) == 4
    assert_same_end(run, tmp_path / "one", tmp_path / "two")
    assert read_rows(tmp_path / "one") == read_rows(tmp_path / "two")
