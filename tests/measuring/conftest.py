"""What the tests of the measuring share."""

import pytest

from hkdnet_jax.measuring import measure


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when it is told to; every module reads it."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    return spend
