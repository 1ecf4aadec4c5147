"""Whole small runs in this process: what they write, and what the loop does."""

import copy

import jax
import numpy as np
import pytest
from loop_fixtures import STEPS, changed, restore, terminated_at, train, wrapped
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from train_fixtures import read_rows

from data_pipelines import loader
from hkdnet_jax.common.arrays import degrade, resize_bicubic, to_float
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.runtime import memory, sharding
from hkdnet_jax.training import loop
from hkdnet_jax.training.run import Run

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
    other = changed(run, val_metrics="CC,AG", val_metrics_every_epochs=2)
    assert [loop._is_scored(other, done) for done in (4, 8, 12)] == [0, 1, 1]
    assert not any(loop._is_scored(run, done) for done in (4, 8, 12))

    params = jax.device_put(restore(run, finished)[0].best_params(), run.replicated)
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
    other = changed(run, val_metrics="CC,AG")
    params = jax.device_put(restore(run, finished)[0].best_params(), run.replicated)
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
    state, _, meta = restore(run, finished)
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
    other = changed(run, checkpoint_every_steps=100)
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
    assert train(scored, tmp_path)
    kept = Model.load(tmp_path).params
    for key in ("fusion", "sr"):
        jax.tree.map(np.testing.assert_array_equal, kept[key], seen[best][key])
    assert restore(run, tmp_path)[2]["best"] == scores[best]


def test_a_validation_that_is_not_finite_replaces_no_weights(run, tmp_path, capsys):
    scored, seen = _scored(run, (99, 20, np.nan))
    assert train(scored, tmp_path)
    kept = Model.load(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, kept["sr"], seen[1]["sr"])
    assert restore(run, tmp_path)[2]["best"] == 20
    assert "the validation after step 12 gave no finite PSNR" in capsys.readouterr().err


def test_weights_are_kept_after_a_validation_that_is_not_finite(run, tmp_path):
    scored, seen = _scored(run, (99, np.nan, 15))
    assert train(scored, tmp_path)
    kept = Model.load(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, kept["sr"], seen[2]["sr"])
    assert restore(run, tmp_path)[2]["best"] == 15


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
    assert train(terminated_at(run, 5), tmp_path) is False
    assert not (tmp_path / file_format.WEIGHTS_FILE).exists()


def test_a_better_score_of_before_the_stop_is_remembered(run, tmp_path):
    scored, seen = _scored(run, (99, 20, 15))
    assert train(terminated_at(scored, 9), tmp_path) is False
    assert train(scored, tmp_path) is True
    kept = Model.load(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, kept["sr"], seen[1]["sr"])


# The loop itself


def test_no_array_travels_unasked_in_the_loop(run, tmp_path):
    def wrap(compiled, done):
        def step(state, frozen, batch):
            # Adding a NumPy array copies it to the device behind one's back.
            state = state.replace(step=state.step + np.zeros((), np.int32))
            return compiled(state, frozen, batch)

        return step

    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
        train(wrapped(run, wrap), tmp_path)


def test_the_state_is_donated(run, tmp_path):
    old = []

    def wrap(compiled, done):
        def step(state, frozen, batch):
            old.append(state)
            return compiled(state, frozen, batch)

        return step

    train(terminated_at(wrapped(run, wrap), 2), tmp_path)
    # A flag that no step reads (whether the last one was finite) is never handed over.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old[0]) if leaf.ndim)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(run.frozen))


def test_the_bar_shows_speed_time_left_and_loss(run, tmp_path, capsys):
    train(terminated_at(run, 4), tmp_path)
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
    assert train(run, tmp_path)
    assert waited == [(done, done - 2) for done in range(2, STEPS + 1)]
