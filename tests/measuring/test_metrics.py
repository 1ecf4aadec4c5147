"""The rows of `benchmark metrics`; no time is judged."""

import json
import math

import pytest

from hkdnet_jax import benchmark, metrics
from hkdnet_jax.measuring import measure
from hkdnet_jax.measuring import metrics as rows_of
from hkdnet_jax.runtime import memory

SIZE = "44x45"
NAMES = ["FMI_dct", "FMI_w", "SCD", "MS_SSIM", "AG", "CC", "paper", "paper"]
FEW = ("FMI_dct", "AG")  # of a real run, which compiles each


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The report of one real run of few metrics, and few windows in plain Python."""
    file = tmp_path_factory.mktemp("benchmark") / "metrics.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_of, "_PLAIN_WINDOWS", 100)
        patch.setattr(rows_of, "_PAIRS_PER_WORKER", 1)
        patch.setattr(metrics, "PAPER", FEW)
        args = ["metrics", "--size", SIZE, "--repeats", "2", "--out", str(file)]
        assert benchmark.main(args) == 0
    return json.loads(file.read_text())


def test_a_row_for_each_metric_and_for_all(done):
    assert [row["metric"] for row in done["rows"]] == [*FEW, "paper", "paper"]
    for row in done["rows"]:
        assert row["size"] == SIZE
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["peak_rss_bytes"] is None or row["peak_rss_bytes"] > 1e7


def test_the_comparison_with_plain_python(done):
    *alone, together, _ = done["rows"]
    for row in (*alone, together):
        assert row["workers"] == 1 and row["compile_seconds"] >= 0
        assert row["speedup"] == pytest.approx(row["plain_seconds"] / row["seconds"])
    total = sum(row["plain_seconds"] for row in alone)
    assert together["plain_seconds"] == pytest.approx(total)
    windows = [row.get("extrapolated_from_windows") for row in (*alone, together)]
    assert windows == [100, None, 100]


def test_the_row_of_all_cores(done):
    row = done["rows"][-1]
    assert row["workers"] == done["machine"]["cores"] >= 1
    assert row["pairs"] >= row["workers"]
    assert "plain_seconds" not in row and "compile_seconds" not in row


@pytest.fixture
def instant(monkeypatch):
    """`score` and its plain counterparts take no time; the clock steps by a second."""
    clock = iter(range(10**6))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(metrics, "score", lambda *images: {})
    monkeypatch.setattr(rows_of.plain_metrics, "fmi_of_maps", lambda *args: math.nan)
    # As on a system that does not tell.
    monkeypatch.setattr(memory, "peak_rss", lambda: None)


def test_the_table(instant, capsys):
    args = ["metrics", "--size", "44x60,60x44", "--repeats", "3"]
    assert benchmark.main(args) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["size", "metric"]
    assert [line.split()[0] for line in lines] == ["44x60"] * 8 + ["60x44"] * 8
    assert [line.split()[1] for line in lines] == NAMES * 2
    assert {len(line) for line in (header, *lines)} == {len(header)}
    cells = " ".join(lines[4].split())
    assert cells == "44x60 AG 1 1000.00 1000.00 1000.00 0.0 1000.0 1.0 -"


def test_plain_seconds_are_those_of_all_windows(instant):
    rows = list(rows_of.measure_metrics([(100, 102)], 1))
    # A second for the maps and one for the windows, of which there are 98 x 100 and
    # 198 x 200 (the wavelet's map is about 100 rows and columns larger).
    assert rows[0]["plain_seconds"] == pytest.approx(1 + 9800 / 5000)
    assert rows[1]["plain_seconds"] == pytest.approx(1 + 198 * 200 / 5000)
    assert rows[0]["extrapolated_from_windows"] == 5000


def test_a_small_image_is_not_extrapolated(instant):
    rows = list(rows_of.measure_metrics([(44, 50)], 1))
    assert rows[0]["plain_seconds"] == 2
    assert "extrapolated_from_windows" not in rows[0]


def test_threads_are_timed_by_the_pair(instant, monkeypatch):
    monkeypatch.setattr(rows_of.os, "cpu_count", lambda: 3)
    *_, row = rows_of.measure_metrics([(44, 50)], 2)
    assert (row["workers"], row["pairs"]) == (3, 12)
    assert row["seconds"] == pytest.approx(1 / 12)
