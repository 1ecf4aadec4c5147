"""Rows of fusing and training: what is timed, counted and divided by what."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import TINIEST

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring import measure, networks
from hkdnet_jax.measuring.measure import Settings
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.ops import position_attention

SETTINGS = Settings("tiny", scale=2, batch=4, repeats=3, dtype="float32")


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to; both modules read it."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    return spend


# --- fuse ---------------------------------------------------------------------------


def test_a_row_of_fuse(clock, monkeypatch):
    calls = []

    def fuse_pair(model, ir, vis):
        assert ir.dtype == vis.dtype == np.uint8 and ir.shape == vis.shape == (16, 17)
        assert not np.array_equal(ir, vis)
        calls.append(model)
        clock(10.0 if len(calls) == 1 else 2.0)

    monkeypatch.setattr(networks, "fuse_pair", fuse_pair)
    (row,) = networks.measure_fuse(SETTINGS, (16, 17))
    assert len(calls) == 1 + 3 * 4
    assert (row["size"], row["batch"], row["seconds"]) == ("16x17", 4, 8.0)
    assert row["compile_seconds"] == 8.0  # a first pair takes 10 s, a later one 2 s
    assert row["images_per_second"] == 0.5
    assert row["megapixels_per_second"] == pytest.approx(0.5 * 4 * 16 * 17 / 1e6)
    operations = networks._forward_flops(calls[0], (16, 17))
    assert row["gflops"] == pytest.approx(4 * operations / 8e9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_network_that_is_timed(dtype):
    settings = dataclasses.replace(SETTINGS, scale=3, dtype=dtype)
    model = networks._random_model(settings)
    assert model.scale == model.network.scale == 3
    assert model.network.config == PRESETS["tiny"]
    assert model.network.dtype == jnp.dtype(dtype)


def test_the_teacher_is_timed_in_float32_only():
    settings = dataclasses.replace(SETTINGS, scale=1, dtype="float32")
    assert networks._random_model(settings).scale == 1
    with pytest.raises(UserError, match="A teacher network computes only in float32"):
        networks._random_model(dataclasses.replace(settings, dtype="bfloat16"))


def test_operations_of_the_teacher():
    model = networks._random_model(dataclasses.replace(SETTINGS, scale=1))
    # Two images through 1->16 and the dense block, one through the decoder.
    encoder = 9 * 16 * (1 + 16 + 32 + 48)
    decoder = 9 * (64 * 64 + 64 * 32 + 32 * 16 + 16)
    expected = 2 * (2 * encoder + decoder) * 200 * 210
    # Reflect padding convolves two more rows and columns.
    found = networks._forward_flops(model, (200, 210))
    assert found == pytest.approx(expected, rel=0.03)


def test_operations_are_those_of_the_definition(monkeypatch):
    model = networks._random_model(SETTINGS)
    before = networks._forward_flops(model, (64, 64))
    # Blocks would pad the positions and count the padding.
    monkeypatch.setattr(position_attention, "BLOCK_BYTES", 4 * 1000 * 1024)
    assert networks._forward_flops(model, (64, 64)) == before


def test_the_memory_of_a_pixel():
    sizes = {"10x20": 5e8, "100x20": 5e8 + 1800 * 7000, "100x200": 5e8 + 19800 * 7000}
    rows = [{"size": s, "peak_rss_bytes": b} for s, b in sizes.items()]
    (fit,) = networks.fuse_fits(rows)
    assert fit["bytes_per_input_pixel"] == pytest.approx(7000)
    assert fit["fixed_bytes"] == pytest.approx(5e8 - 200 * 7000)
    assert networks.fuse_fits(rows[:1]) == []
    assert networks.fuse_fits([*rows, {"size": "9x9", "peak_rss_bytes": None}]) == []


# --- train --------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [1, 2])
def test_a_row_of_train(phase, monkeypatch, quick_compile):
    monkeypatch.setitem(PRESETS, "tiny", TINIEST)
    (row,) = networks.measure_train(SETTINGS, (16, 16), phase)
    assert (row["size"], row["batch"], row["phase"]) == ("16x16", 4, phase)
    assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
    assert row["compile_seconds"] > 0 and 0 <= row["input_wait_share"] < 1
    assert row["samples_per_second"] == pytest.approx(4 / row["seconds"])
    # The teacher forward, on 4 low-resolution pairs or on 4 of 32x32, is part of it.
    teacher = networks._random_model(dataclasses.replace(SETTINGS, scale=1))
    side = {1: 16, 2: 32}[phase]
    least = 4 * networks._forward_flops(teacher, (side, side))
    assert least < row["gflops"] * row["seconds"] * 1e9 < 3 * least


def test_the_run_that_is_timed():
    settings = dataclasses.replace(SETTINGS, scale=3, dtype="bfloat16")
    config = networks._train_config(settings, (20, 20), phase=2)
    assert (config.scale, config.data.crop, config.train.batch_size) == (3, 60, 4)
    assert config.dtype == "bfloat16" and config.model.width == PRESETS["tiny"].width
    full = networks._train_config(
        dataclasses.replace(settings, preset="full"), (9, 9), phase=1
    )
    assert full.model.width == 64
    batch = next(networks._batches(config))
    assert batch["ir"].shape == (4, 60, 60, 1) and batch["ir"].dtype == np.uint8


def test_the_share_of_time_spent_waiting(clock, monkeypatch):
    drawn = []

    def batches():
        while True:
            drawn.append(None)
            clock(1.0)
            yield len(drawn)

    def program(state, teacher, batch):
        assert (state, teacher) == (batch - networks._DRAINED_BATCHES - 1, "teacher")
        clock(3.0)
        return state + 1, {}

    monkeypatch.setattr(networks.sharding, "put_batch", lambda batch, mesh: batch)
    seconds, waits = networks._run_steps(program, 0, "teacher", batches(), None, 5)
    assert (seconds, waits) == ([4.0] * 5, [1.0] * 5)
    assert len(drawn) == networks._DRAINED_BATCHES + 5
