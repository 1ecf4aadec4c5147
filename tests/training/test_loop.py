"""Whole small runs in this process: what they write, how they stop and go on."""

import contextlib
import copy
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from train_fixtures import read_rows, save_teacher, student_config

from data_pipelines import loader
from hkdnet_jax.common.arrays import degrade, resize_bicubic, to_float
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.runtime import memory, sharding
from hkdnet_jax.training import loop
from hkdnet_jax.training.checkpoint import Checkpoints
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.writers import Writer

STEPS = 12  # 3 epochs of 4; the first is phase 1
TOO_MANY = 2  # bad steps in a row


@pytest.fixture(scope="module")
def run(tiny_teacher):
    """One run, compiled once; the tests train it into folders of their own."""
    config = student_config(tiny_teacher)
    config.train.epochs = 3
    config.max_bad_steps = TOO_MANY
    config.optim.ema = 0.9
    config.optim.clip_norm = 1.0
    config.optim.schedule = "cosine"
    run = Run(config)
    # Traced and compiled anew each time they are asked for: ask once.
    fresh, shapes = jax.device_get(run.init_state()), run.abstract_state()
    run.init_state = lambda: jax.device_put(fresh, run.replicated)
    run.abstract_state = lambda: shapes
    return run


def _train(run, workdir):
    """What `main.run` does around `train`."""
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir)))
        beginning = loop.begin(run, checkpoints)
        writer = Writer(workdir, start_step=beginning.step, tensorboard=False)
        stack.enter_context(contextlib.closing(writer))
        return loop.train(run, workdir, checkpoints, writer, beginning)


def _restore(run, workdir):
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.restore(run.abstract_state())


def _latest(workdir):
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.latest_step()


def _assert_same_end(run, workdir, other):
    """Weights kept, state and place in the data are equal to the last bit."""
    kept, expected = (file_format.load_model(folder) for folder in (workdir, other))
    jax.tree.map(np.testing.assert_array_equal, kept, expected)
    (state, data, meta), expected = _restore(run, workdir), _restore(run, other)
    jax.tree.map(np.testing.assert_array_equal, state, expected[0])
    assert (data, meta) == expected[1:]


def _changed(run, **config):
    """The same compiled steps under a config that differs outside of them."""
    other = copy.copy(run)
    other.config = run.config.copy_and_resolve_references()
    other.config.update(config)
    return other


def _wrapped(run, wrap):
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


def _terminated_at(run, at):
    """The run, sent a SIGTERM in its step `at`."""

    def wrap(compiled, done):
        if done == at:
            signal.raise_signal(signal.SIGTERM)
        return compiled

    return _wrapped(run, wrap)


def _spoiled_at(run, bad_steps):
    """The run with a teacher of NaNs in some steps."""
    nans = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), run.frozen)
    nans = jax.device_put(nans, run.replicated)

    def wrap(compiled, done):
        if done in bad_steps:
            return lambda state, _, batch: compiled(state, nans, batch)
        return compiled

    return _wrapped(run, wrap)


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """Workdir of the unbroken run.  Not to be changed."""
    workdir = tmp_path_factory.mktemp("finished")
    assert _train(run, workdir) is True
    return workdir


# What a run writes


def test_rows_are_complete_and_in_order(finished):
    rows = read_rows(finished)
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows if "val/psnr" in row] == [4, 8, 12]
    phases = [row["train/phase"] for row in rows if "train/loss" in row]
    assert phases == [1, 1, 2, 2, 2, 2]
    for row in rows:
        assert all(value is not None for value in row.values()), row
    last = [row for row in rows if "train/loss" in row][-1]
    assert last["train/skipped"] == 0
    # Row 12 is the mean of the rates of steps 6 and 7 of 8 of phase 2 (from 0).
    rate = 1e-3 * np.mean([0.5 * (1 + np.cos(np.pi * k / 8)) for k in (6, 7)])
    assert last["train/lr"] == pytest.approx(rate, rel=1e-4)


def test_a_picture_of_each_validation_pair_is_written(run, finished):
    folders = sorted(path.name for path in (finished / "samples").iterdir())
    assert folders == ["step_00000004", "step_00000008", "step_00000012"]
    files = sorted((finished / "samples" / folders[-1]).iterdir())
    assert [file.name for file in files] == [
        f"{name}.png" for name in run.val_source.names
    ]
    picture = np.asarray(Image.open(files[0]))
    assert picture.shape == (32, 5 * 32)
    crop = next(iter(loader.val_batches(run.val_source, crop=32, batch_size=1)))
    np.testing.assert_array_equal(picture[:, :32], crop["ir"][0, :, :, 0])
    np.testing.assert_array_equal(picture[:, 32:64], crop["vis"][0, :, :, 0])


def test_fusion_metrics_are_computed_when_asked_for(run, finished):
    # 2 of 3 epochs are validated with metrics: the second, and the last.
    other = _changed(run, val_metrics="CC,AG", val_metrics_every_epochs=2)
    assert [loop._is_scored(other, done) for done in (4, 8, 12)] == [0, 1, 1]
    assert not any(loop._is_scored(run, done) for done in (4, 8, 12))

    params = jax.device_put(_restore(run, finished)[0].best_params(), run.replicated)
    with jax.transfer_guard("disallow"):
        plain, strips = other.validate(params)
        means, _ = other.validate(params, with_metrics=True)
    assert means.keys() - plain.keys() == {"val/CC", "val/AG"}
    correlations, gradients = [], []
    for strip in strips.values():
        ir, vis, _, fused, _ = np.split(strip.astype(np.float64), 5, axis=1)
        pairs = [np.corrcoef(source.ravel(), fused.ravel()) for source in (ir, vis)]
        correlations.append(np.mean([pair[0, 1] for pair in pairs]))
        gy, gx = np.gradient(fused / 255)
        total = np.sqrt((gx**2 + gy**2) / 2).sum()
        gradients.append(total / np.prod(np.array(fused.shape) - 1))
    assert len(strips) == 3  # all validation pairs, so the last batch is part filler
    assert means["val/CC"] == pytest.approx(np.mean(correlations), rel=1e-6)
    assert means["val/AG"] == pytest.approx(np.mean(gradients), rel=1e-6)


def test_pairs_without_a_value_do_not_count(monkeypatch, run, finished):
    from hkdnet_jax import metrics

    def score(ir, vis, fused, names):
        return {"CC": np.linspace(0.0, 1.0, len(ir)) * np.nan, "AG": np.arange(4.0)}

    monkeypatch.setattr(metrics, "score", score)
    other = _changed(run, val_metrics="CC,AG")
    params = jax.device_put(_restore(run, finished)[0].best_params(), run.replicated)
    means, _ = other.validate(params, with_metrics=True)
    assert np.isnan(means["val/CC"])
    assert means["val/AG"] == np.mean([0, 1, 2])  # 3 pairs and a filler


def test_validation_means_are_over_the_pairs_alone(run, finished):
    """3 pairs in batches of 4: the filler must not count."""
    values = []
    for batch in loader.val_batches(run.val_source, crop=32, batch_size=1):
        ir, vis = to_float(batch["ir"]), to_float(batch["vis"])
        fuse = jax.jit(run.teacher.apply)
        label, _ = fuse({"params": run.frozen}, ir, vis)
        low, _ = fuse({"params": run.frozen}, degrade(ir, 2), degrade(vis, 2))
        images = [np.clip(x, 0, 1) for x in (label, resize_bicubic(low, 2))]
        values.append(peak_signal_noise_ratio(*images, data_range=1.0))
    assert len(values) == 3
    row = next(row for row in read_rows(finished) if "val/psnr" in row)
    assert row["val/psnr_bicubic"] == pytest.approx(np.mean(values), abs=1e-3)


def test_the_workdir_is_a_model_of_the_averaged_weights(run, finished):
    model = Model.load(finished)
    assert model.scale == 2
    assert set(model.params) == {"fusion", "sr"}, "the adapter is for training only"
    rows = {
        row["step"]: row["val/psnr"] for row in read_rows(finished) if "val/psnr" in row
    }
    state, _, meta = _restore(run, finished)
    assert meta["best"] == max(rows[8], rows[12])
    if rows[12] > rows[8]:
        jax.tree.map(
            np.testing.assert_array_equal,
            dict(model.params),
            {key: state.ema[key] for key in model.params},
        )


def _scored(run, scores):
    """The run with made-up validation scores, and the weights that were scored."""
    # Without the checkpoints in between, which take most of such a run's time.
    other = _changed(run, checkpoint_every_steps=100)
    seen, scores = [], iter(scores)

    def validate(params, with_metrics, stop_requested):
        seen.append(jax.device_get(params))
        return {"val/psnr": next(scores)}, {}

    other.validate = validate
    return other, seen


@pytest.mark.parametrize(("scores", "best"), [((9, 20, 15), 1), ((9, 15, 20), 2)])
def test_the_best_weights_are_kept_from_phase_2_on(run, tmp_path, scores, best):
    # Phase 1 has the highest score in both cases: its picture is an untrained part's.
    scored, seen = _scored(run, (99, *scores[1:]))
    assert _train(scored, tmp_path)
    kept = Model.load(tmp_path).params
    for key in ("fusion", "sr"):
        jax.tree.map(np.testing.assert_array_equal, kept[key], seen[best][key])
    assert _restore(run, tmp_path)[2]["best"] == scores[best]


def test_a_validation_that_is_not_finite_replaces_no_weights(run, tmp_path, capsys):
    scored, seen = _scored(run, (99, 20, np.nan))
    assert _train(scored, tmp_path)
    kept = Model.load(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, kept["sr"], seen[1]["sr"])
    assert _restore(run, tmp_path)[2]["best"] == 20
    assert "the validation after step 12 gave no finite PSNR" in capsys.readouterr().err


def test_weights_are_kept_after_a_validation_that_is_not_finite(run, tmp_path):
    scored, seen = _scored(run, (99, np.nan, 15))
    assert _train(scored, tmp_path)
    kept = Model.load(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, kept["sr"], seen[2]["sr"])
    assert _restore(run, tmp_path)[2]["best"] == 15


def test_every_program_is_compiled_before_the_loop(run, tiny_teacher, tmp_path, capsys):
    other, called = Run(run.config.copy_and_resolve_references()), []
    other.compile(start=0)
    said = capsys.readouterr().err.splitlines()
    names = [line.partition(":")[0] for line in said]
    assert names == ["Compiled phase 1", "Compiled phase 2", "Compiled validation"]
    assert all("takes about" in line and line.endswith("in all.") for line in said)
    programs = (other.train_step(1), other.train_step(2), other.val_step())
    assert all(isinstance(program, jax.stages.Compiled) for program in programs)
    # The programs fit what the run hands them.
    state = other.init_state()
    batch = sharding.put_batch(next(other.batches()), other.mesh)
    state, _ = other.train_step(1)(state, other.frozen, batch)
    called.append(other.train_step(2)(state, other.frozen, batch))
    means, _ = other.validate(called[0][0].best_params())
    assert np.isfinite(means["val/psnr"])


def test_a_resumed_run_does_not_compile_what_is_over(run, monkeypatch):
    other, compiled = copy.copy(run), []
    monkeypatch.setattr(other, "_compile", lambda name, *_: compiled.append(name))
    other.compile(start=5)
    assert compiled == ["phase 2", "validation"]
    other.compile(start=STEPS)
    assert len(compiled) == 2


def test_a_program_that_does_not_fit_is_one_sentence(run, monkeypatch):
    other = copy.copy(run)
    other._programs = {}
    monkeypatch.setattr(memory, "free", lambda device: 10_000)
    with pytest.raises(UserError, match=r"phase 1 takes about .* MB of memory, and 0"):
        other.compile(start=0)
    assert not other._programs.get("validation")


def test_phase_1_keeps_no_weights(run, tmp_path):
    assert _train(_terminated_at(run, 5), tmp_path) is False
    assert not (tmp_path / file_format.WEIGHTS_FILE).exists()


def test_a_better_score_of_before_the_stop_is_remembered(run, tmp_path):
    scored, seen = _scored(run, (99, 20, 15))
    assert _train(_terminated_at(scored, 9), tmp_path) is False
    assert _train(scored, tmp_path) is True
    kept = Model.load(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, kept["sr"], seen[1]["sr"])


# Stopping and going on


@pytest.mark.parametrize("stops", [(4,), (2, 3, 9)])
def test_a_terminated_run_goes_on_to_the_same_end(run, finished, tmp_path, stops):
    for at in stops:
        assert _train(_terminated_at(run, at), tmp_path) is False
        assert _latest(tmp_path) == at, "saved where it stopped"
    assert _train(run, tmp_path) is True
    _assert_same_end(run, tmp_path, finished)
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
        _train(_terminated_at(run, at), tmp_path)
    steps = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    assert steps == {"6", "9"}
    damaged = tmp_path / "checkpoints" / "9" / file
    assert old in damaged.read_bytes()
    damaged.write_bytes(damaged.read_bytes().replace(old, new))
    assert _train(run, tmp_path) is True
    assert "checkpoints/9 is damaged" in capsys.readouterr().err
    _assert_same_end(run, tmp_path, finished)
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
    assert _train(other, tmp_path) is False
    assert len(batches) == 1, "the second batch is not begun"
    assert _latest(tmp_path) == 4
    assert not [row for row in read_rows(tmp_path) if "val/psnr" in row]
    assert _restore(run, tmp_path)[2]["validation_due"] is True
    # The next start makes up for it, and ends as if nothing had been.
    assert _train(run, tmp_path) is True
    _assert_same_end(run, tmp_path, finished)
    assert read_rows(tmp_path) == read_rows(finished)


def test_a_run_terminated_in_its_last_step_validates_at_the_next_start(
    run, finished, tmp_path
):
    assert _train(_terminated_at(run, STEPS), tmp_path) is False
    assert _latest(tmp_path) == STEPS
    assert _train(run, tmp_path) is True
    kept, expected = (file_format.load_model(path) for path in (tmp_path, finished))
    jax.tree.map(np.testing.assert_array_equal, kept, expected)
    assert read_rows(tmp_path) == read_rows(finished)


def test_the_signal_handler_of_before_is_put_back(run, tmp_path):
    def handler(*_):
        raise AssertionError("not while it trains")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        _train(_terminated_at(run, 1), tmp_path)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_finished_run_started_again_does_nothing(run, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}

    def wrap(*_):
        raise AssertionError("no step was to be taken")

    assert _train(_wrapped(run, wrap), workdir) is True
    after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    assert after == before


def test_a_finished_run_can_be_made_longer(run, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    longer = copy.copy(run)
    longer.total_steps = STEPS + 2
    assert _train(longer, workdir) is True
    assert _latest(workdir) == STEPS + 2


def test_a_teacher_that_changed_is_noticed(run, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    config = run.config.copy_and_resolve_references()
    config.teacher.dir = str(save_teacher(tmp_path / "other", seed=1))
    with pytest.raises(UserError, match=r"teacher.*changed") as caught:
        _train(Run(config), workdir)
    assert "\n" not in str(caught.value)


# Numbers that are not finite


def test_a_few_bad_steps_are_skipped_and_counted(run, tmp_path):
    assert _train(_spoiled_at(run, {6, 9}), tmp_path) is True
    rows = {row["step"]: row for row in read_rows(tmp_path) if "train/loss" in row}
    assert rows[6]["train/loss"] is None
    assert rows[8]["train/loss"] is not None
    assert [rows[step]["train/skipped"] for step in (4, 6, 8, 12)] == [0, 1, 1, 2]
    state, *_ = _restore(run, tmp_path)
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
    changed = _changed(run, **cadence)
    with pytest.raises(UserError, match=r"not finite for [23] steps") as caught:
        _train(_spoiled_at(changed, bad), tmp_path)
    assert "config.optim.lr" in str(caught.value)
    last_good = None if cadence.get("checkpoint_every_steps") == 100 else 6
    assert _latest(tmp_path) == last_good
    # From there the run goes on as if nothing had been.
    assert _train(run, tmp_path) is True
    _assert_same_end(run, tmp_path, finished)


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

    often = _changed(run, checkpoint_every_steps=1)
    with pytest.raises(UserError, match="not finite for 2 steps in a row"):
        _train(_wrapped(often, wrap), tmp_path)
    assert _latest(tmp_path) == 6
    state = _restore(run, tmp_path)[0]
    assert max(float(abs(x).max()) for x in jax.tree.leaves(state.params)) < 100
    assert _train(run, tmp_path) is True
    _assert_same_end(run, tmp_path, finished)


def test_the_same_seed_gives_the_same_bytes_on_four_devices(tiny_teacher, tmp_path):
    """On one device the tests of interrupted runs compare with an unbroken one."""
    config = student_config(tiny_teacher)
    config.mesh.data = config.train.batch_size = 4
    config.data.samples_per_epoch = 16
    config.train.epochs = 1
    config.train.phase1_epochs = 0
    run = Run(config)
    for name in ("one", "two"):
        assert _train(run, tmp_path / name) is True
        assert len(run.mesh.devices) == 4
    _assert_same_end(run, tmp_path / "one", tmp_path / "two")
    assert read_rows(tmp_path / "one") == read_rows(tmp_path / "two")


# The loop itself


def test_no_array_travels_unasked_in_the_loop(run, tmp_path):
    def wrap(compiled, done):
        def step(state, frozen, batch):
            # Adding a NumPy array copies it to the device behind one's back.
            state = state.replace(step=state.step + np.zeros((), np.int32))
            return compiled(state, frozen, batch)

        return step

    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
        _train(_wrapped(run, wrap), tmp_path)


def test_the_state_is_donated(run, tmp_path):
    old = []

    def wrap(compiled, done):
        def step(state, frozen, batch):
            old.append(state)
            return compiled(state, frozen, batch)

        return step

    _train(_terminated_at(_wrapped(run, wrap), 2), tmp_path)
    # A flag that no step reads (whether the last one was finite) is never handed over.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old[0]) if leaf.ndim)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(run.frozen))


def test_the_bar_shows_speed_time_left_and_loss(run, tmp_path, capsys):
    _train(_terminated_at(run, 4), tmp_path)
    shown = capsys.readouterr().err
    assert "student" in shown
    assert "img/s" in shown or "s/img" in shown
    assert "loss=" in shown
    assert f"/{STEPS * run.config.train.batch_size} [" in shown


# Data


def test_few_steps_are_queued(run, tmp_path, monkeypatch):
    """What the host waits for after each step: the step before it."""
    seen, waited = [], []
    step = run.train_step(2)

    def counted(state, frozen, batch):
        state, scalars = step(state, frozen, batch)
        seen.append(scalars)
        return state, scalars

    def wait(scalars):
        waited.append((len(seen), next(i for i, s in enumerate(seen) if s is scalars)))
        return scalars

    monkeypatch.setattr(run, "train_step", lambda phase: counted)
    monkeypatch.setattr(loop.jax, "block_until_ready", wait)
    with run.config.unlocked():
        monkeypatch.setitem(run.config, "log_every_steps", STEPS)
    assert _train(run, tmp_path)
    assert waited == [(done, done - 2) for done in range(2, STEPS + 1)]
