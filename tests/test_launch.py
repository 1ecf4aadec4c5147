"""The launch scripts that run here: local.sh with small commands, and one_gpu.sh.

The others are in tests/launch, on made-up tools.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines import scenes

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
TIMEOUT = 900  # seconds; nothing here takes as long


def _run(script, *arguments, **environment):
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


# local.sh


def _python(code):
    return (sys.executable, "-c", f"import os, sys, time\n{code}")


def test_local_numbers_the_processes():
    # One write a line: `print` makes two where Python does not buffer, and the
    # processes' lines would mix.
    code = "sys.stdout.write(f'{sys.argv[1:]}\\n')"
    done = _run("local.sh", "3", *_python(code), "a b", PORT="777")
    assert done.returncode == 0 and not done.stderr
    flags = ["--coordinator=127.0.0.1:777", "--processes=3"]
    expected = [str(["a b", *flags, f"--process={i}"]) for i in range(3)]
    assert sorted(done.stdout.splitlines()) == expected


def test_a_dry_run_prints_the_processes():
    done = _run("local.sh", "--dry-run", "2", "program", "a b's", PORT="777")
    assert done.returncode == 0
    flags = ["--coordinator=127.0.0.1:777", "--processes=2"]
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert commands == [["program", "a b's", *flags, f"--process={i}"] for i in (0, 1)]


@pytest.mark.parametrize("failing", [0, 1])
def test_local_ends_all_when_one_fails(failing):
    code = f"sys.exit(7) if '--process={failing}' in sys.argv else time.sleep(600)"
    assert _run("local.sh", "2", *_python(code)).returncode == 7


def test_local_lets_the_others_finish_when_one_was_stopped(tmp_path):
    code = (
        "if '--process=0' in sys.argv: sys.exit(143)\n"
        "time.sleep(1)\n"
        f"open({str(tmp_path / 'saved')!r}, 'w').close()"
    )
    assert _run("local.sh", "2", *_python(code)).returncode == 143
    assert (tmp_path / "saved").exists()


def test_local_passes_sigterm_on_and_waits(tmp_path):
    code = (
        "import signal\n"
        "def stop(*_):\n"
        "    time.sleep(0.5)\n"
        f"    open({str(tmp_path)!r} + '/saved' + sys.argv[-1], 'w').close()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"open({str(tmp_path)!r} + '/ready' + sys.argv[-1], 'w').close()\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([LAUNCH / "local.sh", "2", *_python(code)])
    deadline = time.monotonic() + TIMEOUT
    while len(list(tmp_path.glob("ready*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 143
    assert len(list(tmp_path.glob("saved*"))) == 2


@pytest.mark.parametrize("arguments", [(), ("2",), ("0", "true"), ("true", "2")])
def test_local_says_how_it_is_used(arguments):
    done = _run("local.sh", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ") and "COMMAND" in done.stderr


# one_gpu.sh


@pytest.fixture
def pairs(tmp_path):
    """A folder of four pairs of made scenes."""
    folder = tmp_path / "pairs"
    scenes.write_pairs(folder, 0, 0, 4, 64, 64)
    return folder


def test_one_gpu_runs_on_a_cpu_too(pairs, tmp_path):
    out = tmp_path / "out"
    done = _run(
        "one_gpu.sh",
        pairs,
        out,
        "--config.train.epochs=1",
        "--config.train.phase1_epochs=0",
        *("--config.model.dfag=False", "--config.model.cea=False"),
        *("--config.loss.phi=0.0", "--config.train.batch_size=2"),
        "--config.data.samples_per_epoch=2",
        PYTHON=sys.executable,
        PLATFORM="cpu",
        LIMIT="3600",  # for slow machines: every stage ends by itself
        PRESETS="tiny",
        DTYPES="float32",
        SIZES="16x16",
        BATCH="2",
        CONFIG="configs/student_x2.py:tiny",
    )
    assert done.returncode == 0, done.stderr
    stages = json.loads((out / "results.json").read_text())
    names = ["checks", "fuse-tiny-float32", "train-tiny-float32", "training"]
    assert [stage["stage"] for stage in stages] == names
    assert {stage["ended"] for stage in stages} == {"done"}
    checks, fuse, train, _ = stages
    _check_a_cpu_equals_itself(checks["report"]["rows"])
    assert fuse["report"]["rows"][0]["size"] == "16x16"
    assert [row["phase"] for row in train["report"]["rows"]] == [1, 2]
    parts = sorted((out / "weights").iterdir())
    joined = b"".join(part.read_bytes() for part in parts)
    assert joined == (out / "training" / "model.safetensors").read_bytes()
    assert "student tiny, float32" in (out / "results.txt").read_text()


def _check_a_cpu_equals_itself(rows):
    names = [row["case"] for row in rows]
    assert len(set(names)) == len(names)
    for part in ("matrix product", "attention, blocked", "teacher", "student tiny"):
        assert any(part in name for name in names)
    assert sum("train step" in name for name in names) == 2
    assert all(row["ok"] for row in rows)
    blocked = [row for row in rows if "blocked" in row["case"]]
    others = [row for row in rows if row not in blocked]  # the same on both sides
    assert all(row["difference"] == 0 for row in others)


def test_one_gpu_goes_on_after_a_failure_and_reports_it(pairs, tmp_path):
    # A Python whose checks fail and whose other benchmarks hang, that runs the script's
    # own lines, and fails to train.
    tool = tmp_path / "python"
    tool.write_text(
        "#!/usr/bin/env bash\n"
        "case $* in\n"
        "*parity*) exit 3 ;;\n"
        "*benchmark*) exec sleep 600 ;;\n"
        "*hkdnet_jax.main*) echo no memory >&2; exit 1 ;;\n"
        f'*) exec {shlex.quote(sys.executable)} "$@" ;;\n'
        "esac\n"
    )
    tool.chmod(0o755)
    settings = {"PYTHON": str(tool), "PLATFORM": "cpu", "LIMIT": "60"}
    settings |= {"PRESETS": "tiny", "DTYPES": "float32"}
    done = _run("one_gpu.sh", pairs, tmp_path / "out", **settings)
    assert done.returncode == 1 and "no memory" in done.stderr
    stages = json.loads((tmp_path / "out" / "results.json").read_text())
    ended = [stage["ended"] for stage in stages]
    assert ended == ["3", *["stopped at its limit"] * 2, "1"]


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        ((), {}, "usage: "),
        (("{pairs}", "{out}"), {"LIMIT": "soon"}, "LIMIT=soon is not a number"),
        (("{pairs}", "{out}"), {"LIMIT": "30"}, "too short for the first stage"),
        (("{out}", "{out}"), {"PLATFORM": "cpu"}, "holds no folders ir and vis"),
        (("{pairs}", "{out}"), {}, "finds no cuda device here"),
        (("{pairs}", "{out}"), {"WHEELS": "nowhere"}, "cannot be installed"),
    ],
)
def test_one_gpu_says_what_is_wrong(pairs, tmp_path, arguments, settings, says):
    out = tmp_path / "out"
    given = [argument.format(pairs=pairs, out=out) for argument in arguments]
    done = _run("one_gpu.sh", *given, PYTHON=sys.executable, **settings)
    assert done.returncode == 1
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert says in line
    assert not (out / "results.json").exists()
