"""The benchmark command: processes, tables, JSON and mistakes; no time is judged."""

import json
import os
import subprocess
import sys

import pytest

from hkdnet_jax import benchmark
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring import kernels, networks, runs, subjects
from hkdnet_jax.measuring.fresh import Skipped
from hkdnet_jax.measuring.measure import Settings, machine

SUBJECTS = ("fuse", "train", "attention", "conv")


def fails(capsys, *args, says=()):
    """Runs the command, which must say `says` in one sentence and return 1."""
    assert benchmark.main([*map(str, args)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.endswith(".\n")
    assert err.count("\n") == 1
    for word in says:
        assert str(word) in err


# --- rows of fresh processes --------------------------------------------------------


def test_each_row_is_measured_in_a_process_of_its_own(tmp_path, capfd):
    file = tmp_path / "fuse.json"
    args = ["fuse", "--preset", "tiny", "--scale", "3", "--size", "16x16,17x40"]
    assert benchmark.main([*args, "--repeats", "2", "--out", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["machine"]["devices"] == ["cpu"]
    assert report["machine"]["device_count"] == 1  # not this process's four
    assert report["settings"]["scale"] == 3 and report["settings"]["repeats"] == 2
    assert [row["size"] for row in report["rows"]] == ["16x16", "17x40"]
    assert len({os.getpid(), *(row["pid"] for row in report["rows"])}) == 3
    for row in report["rows"]:
        assert row["batch"] == 1
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["compile_seconds"] > 0.01  # of a process that has nothing compiled
        assert row["gflops"] > 0
        assert row["peak_rss_bytes"] is None or row["peak_rss_bytes"] > 1e8
    out = capfd.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == [
        "size",
        "16x16",
        "17x40",
    ]
    assert f"Wrote {file}." in out


class Processes:
    """Stands in for `call_fresh`: notes the cases, returns a made row for each."""

    def __init__(self):
        self.cases, self.problems = [], {}

    def __call__(self, function, *args, **case):
        if function is machine:
            return {"cpu": "made", "device_count": 2}
        self.cases.append((function, *args, case))
        problem = self.problems.get(len(self.cases))
        if problem:
            raise problem
        size = "{}x{}".format(*case.pop("size"))
        numbers = dict.fromkeys(("seconds", "seconds_min", "seconds_max"), 0.5)
        figures = {"compile_seconds": 1.0, "gflops": 123.456, "peak_rss_bytes": None}
        more = {"positions": 9, "program_bytes": 8, "rss_above_baseline_bytes": 7}
        return [{"size": size, "batch": 4, **case, **numbers, **figures, **more}]


@pytest.fixture
def processes(monkeypatch):
    made = Processes()
    monkeypatch.setattr(runs, "call_fresh", made)
    return made


MEASURES = {
    "fuse": networks.measure_fuse,
    "train": subjects.measure_train,
    "attention": kernels.measure_attention,
    "conv": kernels.measure_conv,
}
CASES = {
    "fuse": [{}],
    "train": [{"phase": 1}, {"phase": 2}],
    "attention": [
        {"implementation": implementation, "passes": passes}
        for implementation in ("materialized", "blocked")
        for passes in ("forward", "forward+backward")
    ],
    "conv": [{}],
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_is_asked_of_the_processes(subject, processes, capsys, tmp_path):
    args = f"{subject} --preset lite --scale 4 --size 20x20,32x32 --batch 4 --repeats 7"
    file = tmp_path / "rows.json"
    assert benchmark.main([*args.split(), "--dtype=bfloat16", f"--out={file}"]) == 0
    settings = Settings("lite", scale=4, batch=4, repeats=7, dtype="bfloat16")
    measure, sizes = MEASURES[subject], ("20x20", "32x32")
    assert [case[:2] for case in processes.cases] == [(measure, settings)] * (
        2 * len(CASES[subject])
    )
    rows = json.loads(file.read_text())["rows"]
    told = [{"size": size} | case for size in sizes for case in CASES[subject]]
    assert [{key: row[key] for key in told[0]} for row in rows] == told

    headings, *lines = capsys.readouterr().out.splitlines()[: 1 + len(told)]
    assert {len(line) for line in (headings, *lines)} == {len(headings)}
    assert lines[-1].split()[:2] == ["32x32", "4"]
    for value in (*told[-1].values(), "123.5", "-"):
        assert str(value) in lines[-1].split()


def test_the_report(processes, tmp_path):
    file = tmp_path / "rows.json"
    args = ["attention", "--size=9x9,20x20", "--out", str(file)]
    assert benchmark.main(args) == 0
    report = json.loads(file.read_text())
    assert report["machine"] == {"cpu": "made", "device_count": 2}
    assert report["subject"] == "attention" and len(report["rows"]) == 8
    assert len(report["fits"]) == 4 and report["skipped"] == report["failures"] == []


def test_fits_are_printed(processes, capsys):
    assert benchmark.main(["attention"]) == 0
    out = capsys.readouterr().out
    assert "fit: implementation blocked, passes forward, seconds_exponent None" in out


def test_a_row_that_fails_leaves_the_others(processes, capsys, tmp_path):
    processes.problems = {1: UserError("it broke."), 2: Skipped("it is too large.")}
    file = tmp_path / "rows.json"
    args = ["train", "--batch", "2", "--size", "20x20,32x32", "--out", str(file)]
    assert benchmark.main(args) == 1
    report = json.loads(file.read_text())
    assert [(r["size"], r["phase"]) for r in report["rows"]] == [
        ("32x32", 1),
        ("32x32", 2),
    ]
    assert report["failures"] == ["20x20, phase 1: it broke."]
    assert report["skipped"] == ["20x20, phase 2: it is too large."]
    out, err = capsys.readouterr()
    assert "skipped: 20x20, phase 2: it is too large." in out
    assert "error: 20x20, phase 1: it broke." in err.splitlines()[-1]


def test_what_is_skipped_is_no_failure(processes):
    processes.problems = {1: Skipped("it is too large.")}
    assert benchmark.main(["fuse"]) == 0


def test_the_command_itself_leaves_the_accelerator_alone():
    # Its processes could not have it otherwise.  Once jax has looked for devices, their
    # number cannot be set any more.
    program = """
import jax
from hkdnet_jax import benchmark
from hkdnet_jax.measuring import runs
row = dict.fromkeys(("seconds", "seconds_min", "seconds_max", "gflops"), 1.0)
row |= {"size": "9x9", "batch": 1, "device_count": 1, "peak_rss_bytes": 1}
made = [row]
runs.call_fresh = lambda f, *a, **k: row if f is runs.machine else made
assert benchmark.main(["fuse"]) == benchmark.main(["conv"]) == 0
jax.config.update("jax_num_cpu_devices", 3)
assert jax.device_count() == 3
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# --- mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "size", "says"),
    [
        ("metrics", "400", "'400'"),
        ("metrics", "400x", "'400x'"),
        ("metrics", "43x500", "44"),
        ("metrics", "400x500,60x20", "'60x20'"),
        ("metrics", "400*500", "400x500"),
        ("metrics", "-400x500", "'-400x500'"),
        ("metrics", "", "''"),
        ("metrics", "50x60,50x60", "twice"),
        ("fuse", "7x20", "at least 8"),
        ("conv", "64", "'64'"),
        ("attention", "20x20,9x0", "'9x0'"),
        ("train", "15x15", "at least 16"),
        ("data", "127x640", "at least 128"),
        ("train", "32x32,32x40", "32x40 is not square"),
    ],
)
def test_bad_sizes(processes, capsys, subject, size, says):
    fails(capsys, subject, f"--size={size}", says=[says, "--size"])


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--preset", "huge", "full, base, lite, tiny"),
        ("--dtype", "float64", "float32, bfloat16"),
        ("--scale", "5", "2, 3, 4"),
        ("--batch", "0", "1 or more"),
        ("--repeats", "0", "1 or more"),
    ],
)
def test_bad_settings(processes, capsys, subject, flag, value, says):
    fails(capsys, subject, flag, value, says=[f"{flag} {value}", says])
    assert processes.cases == []


def test_a_teacher_is_not_trained_here(processes, capsys):
    fails(capsys, "train", "--scale", 1, says=["--scale 1", "2, 3, 4"])


def test_a_batch_that_the_devices_cannot_share(processes, capsys):
    fails(capsys, "train", "--batch", 3, says=["--batch 3", "2 devices"])
    assert benchmark.main(["fuse", "--batch", "3"]) == 0


@pytest.mark.parametrize("subject", ["metrics", *SUBJECTS])
def test_bad_out(capsys, tmp_path, subject):
    fails(capsys, subject, "--out", tmp_path, says=[tmp_path, "folder"])
    file = tmp_path / "file"
    file.write_text("")
    fails(capsys, subject, "--out", file / "x.json", says=[file, "folder"])
    missing = tmp_path / "missing"
    fails(capsys, subject, "--out", missing / "x.json", says=[missing])
    assert not missing.exists()


@pytest.mark.parametrize("subject", ["", "metrics", *SUBJECTS])
def test_help_has_an_example(capsys, subject):
    with pytest.raises(SystemExit) as stop:
        benchmark.main([*subject.split(), "--help"])
    assert stop.value.code == 0
    assert f"python -m hkdnet_jax.benchmark {subject}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["measure_metrics", "call_fresh"])
def test_interrupted(capsys, monkeypatch, name):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, name, interrupt)
    subject = "metrics" if name == "measure_metrics" else "fuse"
    assert benchmark.main([subject]) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was written.\n"
