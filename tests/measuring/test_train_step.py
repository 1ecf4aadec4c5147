"""The timing of a train step."""

import dataclasses

import numpy as np
import pytest
from command_fixtures import TINIEST

from hkdnet_jax.measuring import networks, train_step
from hkdnet_jax.measuring.measure import Settings
from hkdnet_jax.models.presets import PRESETS

SETTINGS = Settings("tiny", scale=2, batch=4, repeats=3, dtype="float32")


@pytest.mark.parametrize("phase", [1, 2])
def test_a_row_of_train(phase, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINIEST)
    (row,) = train_step.measure_train(SETTINGS, (16, 16), phase)
    assert (row["size"], row["batch"], row["phase"]) == ("16x16", 4, phase)
    assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
    assert row["compile_seconds"] > 0 and 0 <= row["input_wait_share"] < 1
    assert row["samples_per_second"] == pytest.approx(4 / row["seconds"])
    # The teacher forward, on 4 low-resolution pairs or on 4 of 32x32, is part of it.
    teacher = networks.random_model(dataclasses.replace(SETTINGS, scale=1))
    side = {1: 16, 2: 32}[phase]
    least = 4 * networks._forward_flops(teacher, (side, side))
    assert least < row["gflops"] * row["seconds"] * 1e9 < 3 * least


def test_the_run_that_is_timed():
    settings = dataclasses.replace(SETTINGS, scale=3, dtype="bfloat16")
    config = train_step._train_config(settings, (20, 20), phase=2)
    assert (config.scale, config.data.crop, config.train.batch_size) == (3, 60, 4)
    assert config.dtype == "bfloat16" and config.model.width == PRESETS["tiny"].width
    full = train_step._train_config(
        dataclasses.replace(settings, preset="full"), (9, 9), phase=1
    )
    assert full.model.width == 64
    batch = next(train_step._batches(config))
    assert batch["ir"].shape == (4, 60, 60, 1) and batch["ir"].dtype == np.uint8


def test_the_share_of_time_spent_waiting(clock, monkeypatch):
    drawn = []

    def batches():
        while True:
            drawn.append(None)
            clock(1.0)
            yield len(drawn)

    def program(state, teacher, batch):
        assert (state, teacher) == (batch - train_step._DRAINED_BATCHES - 1, "teacher")
        clock(3.0)
        return state + 1, {}

    monkeypatch.setattr(train_step.sharding, "put_batch", lambda batch, mesh: batch)
    seconds, waits = train_step._run_steps(program, 0, "teacher", batches(), None, 5)
    assert (seconds, waits) == ([4.0] * 5, [1.0] * 5)
    assert len(drawn) == train_step._DRAINED_BATCHES + 5
