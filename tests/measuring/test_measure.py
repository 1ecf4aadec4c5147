"""Fitted laws, memory and the machine; a table's cells."""

import json

import jax
import jax.numpy as jnp
import pytest

from hkdnet_jax.measuring import measure
from hkdnet_jax.measuring.table import Column, header, line, listing
from hkdnet_jax.runtime import memory


def test_a_line_through_points():
    assert measure.line([1, 2, 4], [5, 8, 14]) == pytest.approx((3, 2))
    # Least squares: the errors -1, +2, -1 cancel in slope and sum.
    assert measure.line([0, 1, 2], [-1, 3, 1]) == pytest.approx((1, 0))


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 2.5])
def test_an_exponent(power):
    x = [10.0, 100.0, 3000.0]
    assert measure.exponent(x, [7 * v**power for v in x]) == pytest.approx(power)


def test_an_exponent_weighs_ratios_and_not_differences():
    # Twice too much at one end, half at the other: the slope falls by log10(2).
    found = measure.exponent([1, 10, 100], [2, 10, 50])
    assert found == pytest.approx(1 - 0.301030, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "y"),
    [([], []), ([5], [1]), ([5, 5], [1, 2]), ([1, 2], [1, None])],
)
def test_no_law_where_the_figures_do_not_suffice(x, y):
    assert measure.line(x, y) is None
    assert measure.exponent(x, y) is None


@pytest.mark.parametrize("bad", [0, -1])
def test_no_exponent_without_a_logarithm(bad):
    assert measure.exponent([1, 2], [1, bad]) is None


def test_statistics():
    assert measure.statistics([3.0, 1.0, 8.0]) == {
        "seconds": 3.0,
        "seconds_min": 1.0,
        "seconds_max": 8.0,
    }


def test_a_program_and_its_memory():
    x = jax.ShapeDtypeStruct((30, 40), jnp.float32)
    program, seconds = measure.compiled(lambda x: x + 1, x)
    assert seconds > 0 and program(jnp.zeros((30, 40)))[0, 0] == 1
    assert memory.program_bytes(program) == 30 * 40 * 4
    # Already jitted, with its own options: an output in the input's place is no memory.
    donated = jax.jit(lambda x: x + 1, donate_argnums=0)
    assert memory.program_bytes(measure.compiled(donated, x)[0]) == 0


def test_memory_is_the_accelerators_where_there_is_one(monkeypatch):
    class Device:
        device_kind = "H200"

        def memory_stats(self):
            return {"peak_bytes_in_use": 70}

    monkeypatch.setattr(measure.jax, "devices", lambda: [Device()])
    assert measure.process_row()["peak_device_bytes"] == 70


def test_the_machine():
    machine = measure.machine()
    json.dumps(machine)
    assert machine["cpu"] and machine["platform"] and machine["devices"] == ["cpu"]
    assert machine["cores"] >= 1 and machine["device_count"] == 4  # conftest's
    assert machine["memory_bytes"] is None or machine["memory_bytes"] > 1e8
    for package in ("python", "jax", "jaxlib", "numpy"):
        assert machine[package][0].isdigit()


def test_a_table():
    columns = (
        Column("name", "name", 6),
        Column("n", "count", 3),
        Column("ms", "seconds", 8, 2, 1e3),
        Column("MB", "bytes", 5, 0, 1e-6),
    )
    row = {"name": "a", "count": 3, "seconds": 0.5, "bytes": None}
    assert header(columns) == "  name   n       ms    MB"
    assert line(columns, row) == "     a   3   500.00     -"
    assert line(columns, {"bytes": 2_600_000}) == "     -   -        -     3"


def test_a_listing():
    assert listing({"slope": 1234.5678, "what": "x"}) == "slope 1235, what x"
