"""Rows of attention and convolutions: what is counted, compared and left out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.measuring import kernels
from hkdnet_jax.measuring.fresh import Skipped
from hkdnet_jax.measuring.measure import Settings
from hkdnet_jax.models.blocks import ResidualGroup
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.ops import position_attention
from hkdnet_jax.runtime import memory

SETTINGS = Settings("tiny", scale=2, batch=2, repeats=3, dtype="float32")
C = PRESETS["tiny"].width


def attention(implementation, passes, size=(9, 10)):
    (row,) = kernels.measure_attention(SETTINGS, size, implementation, passes)
    return row


@pytest.mark.parametrize("implementation", kernels.IMPLEMENTATIONS)
@pytest.mark.parametrize("passes", kernels.PASSES)
def test_a_row_of_attention(implementation, passes, monkeypatch):
    monkeypatch.setattr(position_attention, "BLOCK_BYTES", 4 * 2 * 90 * 20)
    row = attention(implementation, passes)
    assert (row["size"], row["batch"], row["positions"]) == ("9x10", 2, 90)
    assert (row["implementation"], row["passes"]) == (implementation, passes)
    assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
    # Forward two matrix products, backward four; blocks compute some of them again.
    products = {"forward": 2, "forward+backward": 6}[passes]
    operations = 2 * products * 2 * 90**2 * C
    assert row["gflops"] * row["seconds"] * 1e9 == pytest.approx(operations)
    assert row["peak_rss_bytes"] is None or row["peak_rss_bytes"] > 1e7


def test_the_blocked_form_takes_less_memory(monkeypatch):
    monkeypatch.setattr(position_attention, "BLOCK_BYTES", 4 * 2 * 400 * 20)
    passes = kernels.BOTH
    whole, blocks = (attention(i, passes, (20, 20)) for i in kernels.IMPLEMENTATIONS)
    assert whole["program_bytes"] > 2 * 400**2 * 4 > blocks["program_bytes"]


@pytest.mark.parametrize(
    ("implementation", "enough"), [("materialized", 2 * 90**2 * 4), ("blocked", 0)]
)
def test_what_does_not_fit_is_left_out(implementation, enough, monkeypatch):
    # The affinity alone, whatever of it the compiler's plan lists.
    monkeypatch.setattr(memory, "program_bytes", lambda program: 5)
    monkeypatch.setattr(memory, "free", lambda device: max(enough, 5))
    assert attention(implementation, "forward")["program_bytes"] == 5
    monkeypatch.setattr(memory, "free", lambda device: max(enough, 5) - 1)
    with pytest.raises(Skipped, match="GB are free"):
        attention(implementation, "forward")
    monkeypatch.setattr(memory, "free", lambda device: None)  # not known: tried
    assert attention(implementation, "forward")["seconds"] > 0


def test_memory_above_the_baseline(monkeypatch):
    peaks = iter([900, 700, 600])  # before, after the restart, and of `process_row`
    monkeypatch.setattr(memory, "peak_rss", lambda: next(peaks))
    monkeypatch.setattr(memory, "rss", lambda: 550)
    row = attention("blocked", "forward")
    assert row["rss_above_baseline_bytes"] == 150 and row["peak_rss_bytes"] == 900


def test_memory_is_none_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(memory, "peak_rss", lambda: None)
    monkeypatch.setattr(memory, "rss", lambda: None)
    row = attention("blocked", "forward")
    assert row["rss_above_baseline_bytes"] is None and row["peak_rss_bytes"] is None


def made_row(implementation, passes, positions, seconds, program, resident):
    return {
        "implementation": implementation,
        "passes": passes,
        "positions": positions,
        "seconds": seconds,
        "program_bytes": program,
        "rss_above_baseline_bytes": resident,
    }


def test_fits_of_each_form_and_passes():
    rows = [made_row("materialized", "forward", 50, 1.0, 1, 1)]
    for n in (100, 400, 1000):
        rows.append(made_row("blocked", "forward", n, 3e-9 * n**2, 10 * n, 5 * n**1.5))
        rows.append(made_row("blocked", "forward+backward", n, 1e-9 * n**3, 70, None))
    alone, forward, both = kernels.attention_fits(rows)
    assert forward == {
        "implementation": "blocked",
        "passes": "forward",
        "seconds_exponent": pytest.approx(2),
        "program_exponent": pytest.approx(1),
        "rss_above_baseline_exponent": pytest.approx(1.5),
    }
    assert both["passes"] == "forward+backward"
    assert both["seconds_exponent"] == pytest.approx(3)
    assert both["program_exponent"] == pytest.approx(0, abs=1e-12)
    assert both["rss_above_baseline_exponent"] is None
    assert list(alone.values()) == ["materialized", "forward", None, None, None]


@pytest.fixture
def small(monkeypatch):
    sizes = dataclasses.replace(PRESETS["tiny"], width=4, sr_rcabs=3, reduction=2)
    monkeypatch.setitem(PRESETS, "tiny", sizes)
    monkeypatch.setattr(kernels, "_MATMUL_SIDE", 20)


def test_rows_of_convolutions(small, monkeypatch):
    turns = []

    def timed(run):
        jax.block_until_ready(run())
        turns.append(run)
        return float(len(turns))  # so that no two are alike

    def difference(ours, theirs):
        assert ours is not theirs
        return original(ours, theirs)

    original = kernels._difference
    monkeypatch.setattr(kernels, "_difference", difference)
    monkeypatch.setattr(kernels, "timed", timed)
    rows = kernels.measure_conv(SETTINGS, (11, 12))
    ways = ("ours-scanned", "ours-unrolled", "xla-unrolled")
    expected = [(way, passes) for way in ways for passes in kernels.PASSES]
    assert [(r["way"], r["passes"]) for r in rows] == [("matmul", "forward"), *expected]
    # Three rounds of all seven, in one order: the second call of each is its median.
    assert turns[:7] == turns[7:14] == turns[14:]
    assert [row["seconds"] for row in rows] == list(range(8, 15))

    work = [row["gflops"] * row["seconds"] * 1e9 for row in rows]
    conv = 2 * 2 * 11 * 12 * 9 * 4 * 4
    assert work[0] == pytest.approx(2 * 20**3)
    assert work[1::2] == pytest.approx([work[1]] * 3)
    assert work[1] == pytest.approx(7 * conv, rel=0.01)
    assert work[2::2] == pytest.approx([work[2]] * 3)
    assert work[2] == pytest.approx(3 * 7 * conv, rel=0.2)
    for row in rows:
        rate = row["gflops"] / rows[0]["gflops"]
        assert row["share_of_matmul"] == pytest.approx(rate)
    for ours, xla in ((1, 5), (2, 6), (3, 5), (4, 6)):
        ratio = rows[xla]["seconds"] / rows[ours]["seconds"]
        assert rows[ours]["speedup_over_xla"] == pytest.approx(ratio)
        assert 0 <= rows[ours]["difference_to_xla"] < 1e-5
    assert all("speedup_over_xla" not in rows[i] for i in (0, 5, 6))


@pytest.mark.parametrize("way", ["ours-scanned", "ours-unrolled", "xla-unrolled"])
def test_all_variants_are_a_residual_group(way):
    group = ResidualGroup(3, reduction=2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 4)), jnp.float32)
    shapes = jax.eval_shape(group.init, jax.random.key(0), x)["params"]
    params = ref.random_params(shapes, seed=1)
    got = jax.jit(kernels._variants(group)[way])(params, x)
    np.testing.assert_allclose(got, ref.residual_group(params, x), atol=5e-5)


def test_the_difference_is_the_largest_of_any_array():
    theirs = {"a": jnp.array([1.0, -10.0]), "b": jnp.array([0.5])}
    ours = {"a": jnp.array([2.0, -10.0]), "b": jnp.array([0.4])}
    assert kernels._difference(ours, theirs) == pytest.approx(0.2)
    assert kernels._difference(theirs, theirs) == 0
    zeros = np.zeros(3)
    assert kernels._difference(zeros, zeros) == 0
    assert 1 < kernels._difference(zeros + 1, zeros) < np.inf
