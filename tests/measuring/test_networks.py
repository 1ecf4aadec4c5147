"""Rows of fusing and training: what is timed, counted and divided by what."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring import networks
from hkdnet_jax.measuring.measure import Settings
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.ops import position_attention

SETTINGS = Settings("tiny", scale=2, batch=4, repeats=3, dtype="float32")


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
    model = networks.random_model(settings)
    assert model.scale == model.network.scale == 3
    assert model.network.config == PRESETS["tiny"]
    assert model.network.dtype == jnp.dtype(dtype)


def test_the_teacher_is_timed_in_float32_only():
    settings = dataclasses.replace(SETTINGS, scale=1, dtype="float32")
    assert networks.random_model(settings).scale == 1
    with pytest.raises(UserError, match="A teacher network computes only in float32"):
        networks.random_model(dataclasses.replace(settings, dtype="bfloat16"))


def test_operations_of_the_teacher():
    model = networks.random_model(dataclasses.replace(SETTINGS, scale=1))
    # Two images through 1->16 and the dense block, one through the decoder.
    encoder = 9 * 16 * (1 + 16 + 32 + 48)
    decoder = 9 * (64 * 64 + 64 * 32 + 32 * 16 + 16)
    expected = 2 * (2 * encoder + decoder) * 200 * 210
    # Reflect padding convolves two more rows and columns.
    found = networks._forward_flops(model, (200, 210))
    assert found == pytest.approx(expected, rel=0.03)


def test_operations_are_those_of_the_definition(monkeypatch):
    model = networks.random_model(SETTINGS)
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
