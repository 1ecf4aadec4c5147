"""The benchmark command: what it prints and writes; no time is judged."""

import json
import math

import pytest

from hkdnet_jax import benchmark, metrics

SIZE = "44x45"
NAMES = ["FMI_dct", "FMI_w", "SCD", "MS_SSIM", "AG", "CC", "paper", "paper"]
FEW = ("FMI_dct", "AG")  # of a real run, which compiles each


def fails(capsys, *args, says=()):
    """Runs the command, which must say `says` in one sentence and return 1."""
    assert benchmark.main(["metrics", *map(str, args)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.endswith(".\n")
    assert err.count("\n") == 1
    for word in says:
        assert str(word) in err


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The report of one real run of few metrics, and few windows in plain Python."""
    file = tmp_path_factory.mktemp("benchmark") / "metrics.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "_PLAIN_WINDOWS", 100)
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


def test_the_machine(done):
    machine = done["machine"]
    assert machine["cpu"] and machine["platform"] and machine["devices"] == ["cpu"]
    assert machine["memory_bytes"] is None or machine["memory_bytes"] > 1e8
    for package in ("python", "jax", "jaxlib", "numpy"):
        assert machine[package][0].isdigit()


@pytest.fixture
def instant(monkeypatch):
    """`score` and its plain counterparts take no time; the clock steps by a second."""
    clock = iter(range(10**6))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(metrics, "score", lambda *images: {})
    monkeypatch.setattr(benchmark.plain, "fmi_of_maps", lambda *args: math.nan)
    # As on a system that does not tell.
    monkeypatch.setattr(benchmark, "_peak_rss", lambda: None)


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
    rows = list(benchmark.measure_metrics([(100, 102)], 1))
    # A second for the maps and one for the windows, of which there are 98 x 100 and
    # 198 x 200 (the wavelet's map is about 100 rows and columns larger).
    assert rows[0]["plain_seconds"] == pytest.approx(1 + 9800 / 5000)
    assert rows[1]["plain_seconds"] == pytest.approx(1 + 198 * 200 / 5000)
    assert rows[0]["extrapolated_from_windows"] == 5000


def test_a_small_image_is_not_extrapolated(instant):
    rows = list(benchmark.measure_metrics([(44, 50)], 1))
    assert rows[0]["plain_seconds"] == 2
    assert "extrapolated_from_windows" not in rows[0]


def test_threads_are_timed_by_the_pair(instant, monkeypatch):
    monkeypatch.setattr(benchmark.os, "cpu_count", lambda: 3)
    *_, row = benchmark.measure_metrics([(44, 50)], 2)
    assert (row["workers"], row["pairs"]) == (3, 12)
    assert row["seconds"] == pytest.approx(1 / 12)


def test_peak_memory_is_none_where_the_system_does_not_tell(monkeypatch):
    def missing(self, *args, **kwargs):
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(benchmark.Path, "read_text", missing)
    monkeypatch.setattr(benchmark.Path, "write_text", missing)
    benchmark._restart_peak()
    assert benchmark._peak_rss() is None
    assert benchmark.machine()["cpu"]


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("400", "'400'"),
        ("400x", "'400x'"),
        ("43x500", "44"),
        ("400x500,60x20", "'60x20'"),
        ("400*500", "400x500"),
        ("-400x500", "'-400x500'"),
        ("", "''"),
        ("50x60,50x60", "twice"),
    ],
)
def test_bad_sizes(capsys, size, says):
    fails(capsys, f"--size={size}", says=[says, "--size"])


def test_bad_repeats(capsys):
    fails(capsys, "--repeats", 0, says=["--repeats 0"])


def test_bad_out(capsys, tmp_path):
    fails(capsys, "--out", tmp_path, says=[tmp_path, "folder"])
    file = tmp_path / "file"
    file.write_text("")
    fails(capsys, "--out", file / "x.json", says=[file, "folder"])
    missing = tmp_path / "missing"
    fails(capsys, "--out", missing / "x.json", says=[missing])
    assert not missing.exists()


def test_help_has_an_example(capsys):
    for args in (["--help"], ["metrics", "--help"]):
        with pytest.raises(SystemExit) as stop:
            benchmark.main(args)
        assert stop.value.code == 0
        assert (
            "python -m hkdnet_jax.benchmark metrics --size" in capsys.readouterr().out
        )


def test_interrupted(capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure_metrics", interrupt)
    assert benchmark.main(["metrics"]) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was written.\n"
