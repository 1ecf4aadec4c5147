"""The launch scripts: the local one with small commands, others on made-up tools."""

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
SCRIPTS = sorted(f.name for f in LAUNCH.iterdir() if f.suffix != ".md")
TIMEOUT = 900  # seconds; nothing here takes as long
AWKWARD = "--config.teacher.dir=a b's $HOME"


def _run(script, *arguments, **environment):
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_syntax(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)


def test_every_script_is_in_the_readme():
    readme = (LAUNCH / "README.md").read_text()
    assert len(SCRIPTS) == 5
    assert all(f"launch/{script}" in readme for script in SCRIPTS)


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


# The others


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """gcloud, ssh, srun and scontrol that write down how they are called."""
    for name in ("gcloud", "ssh", "srun", "scontrol"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(
            f"#!{sys.executable}\n"
            "import os, sys\n"
            f"print(repr([{name!r}, *sys.argv[1:]]), flush=True)\n"
            f"sys.exit(int(os.environ.get({name.upper()!r}, '0')))\n"
        )
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def _calls(done):
    return [eval(line) for line in done.stdout.splitlines()]


def _main(*flags):
    return [".venv/bin/python", "-m", "hkdnet_jax.main", AWKWARD, *flags]


def test_tpu(tools):
    done = _run("tpu.sh", AWKWARD, TPU="slice", ZONE="zone-a", FOLDER="the folder")
    assert done.returncode == 0, done.stderr
    ((*gcloud, command),) = _calls(done)
    assert gcloud[-3:] == ["slice", "--zone=zone-a", "--worker=all"]
    words = shlex.split(command.removeprefix("--command="))
    assert words == ["cd", "the folder", "&&", "exec", *_main("--coordinator=auto")]


@pytest.mark.parametrize(
    ("script", "missing"), [("tpu.sh", "TPU"), ("tpu.sh", "ZONE"), ("gpu.sh", "HOSTS")]
)
def test_a_missing_setting_is_named(tools, script, missing):
    given = {"TPU": "t", "ZONE": "z", "HOSTS": "a b"} | {missing: ""}
    done = _run(script, "--workdir=w", **given)
    assert done.returncode != 0 and not done.stdout
    assert f"{missing}: name" in done.stderr


def test_gpu(tools):
    done = _run("gpu.sh", AWKWARD, HOSTS="one two", FOLDER="the folder")
    assert done.returncode == 0, done.stderr
    for index, (_, _, host, command) in enumerate(sorted(_calls(done))):
        assert host == ("one", "two")[index]
        flags = ["--coordinator=one:12321", "--processes=2", f"--process={index}"]
        words = shlex.split(command)
        assert words == ["cd", "the folder", "&&", "exec", *_main(*flags)]
    assert _run("gpu.sh", "--workdir=w", HOSTS="one two", SSH="3").returncode == 3


@pytest.mark.parametrize(("code", "requeued"), [("0", 0), ("143", 1), ("1", 0)])
def test_slurm(tools, code, requeued):
    settings = {"SLURM_SUBMIT_DIR": str(tools), "SLURM_JOB_ID": "42", "SRUN": code}
    done = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch", AWKWARD],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == int(code)
    srun, *others = _calls(done)
    assert srun == ["srun", "--kill-on-bad-exit=1", *_main("--coordinator=auto")]
    assert others == [["scontrol", "requeue", "42"]] * requeued


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
    assert all(row["ok"] for row in checks["report"]["rows"])
    assert fuse["report"]["rows"][0]["size"] == "16x16"
    assert [row["phase"] for row in train["report"]["rows"]] == [1, 2]
    parts = sorted((out / "weights").iterdir())
    joined = b"".join(part.read_bytes() for part in parts)
    assert joined == (out / "training" / "model.safetensors").read_bytes()
    assert "student tiny, float32" in (out / "results.txt").read_text()


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
