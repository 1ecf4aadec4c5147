"""The comparison of an accelerator with the CPU, on made cases.

tests/test_launch.py has a whole one, of the CPU with itself.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from hkdnet_jax.measuring import parity, runs
from hkdnet_jax.measuring.parity import Case


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([0.0], [0.0], 0.0),
        ([np.nan], [1.0], np.inf),
        ([1.0], [np.inf], np.inf),
    ],
)
def test_the_difference_is_relative_to_the_largest_value(a, b, want):
    others = {"x": np.ones(3), "y": np.asarray(b)}
    assert parity.difference({"x": np.ones(3), "y": np.asarray(a)}, others) == want


def test_what_differs_or_fails_is_said(monkeypatch, capsys):
    def refuse(x):
        raise NotImplementedError("no such kernel\nsecond line")

    one = np.ones((2, 2), np.float32)
    cases = [
        Case("equal", jnp.sin, (one,)),
        Case("near", lambda x: x * 1.01, (one,), 0.1, reference=lambda x: x),
        Case("far", lambda x: x * 1.01, (one,), 0.001, reference=lambda x: x),
        Case("absent", refuse, (one,)),
    ]
    monkeypatch.setattr(parity, "_cases", lambda *_: iter(cases))
    report = runs.run_parity([], [])
    assert [row["ok"] for row in report["rows"]] == [True, True, False, False]
    assert report["failures"] == [
        "far: it differs by 0.01.",
        "absent: no such kernel.",
    ]
    _, equal, _, far, absent = capsys.readouterr().out.splitlines()
    assert equal.split() == ["equal", "0.00000000", "0.00010", "yes"]
    assert far.endswith("NO") and absent.split()[1:] == ["-", "0.00010", "NO"]
