"""The launch scripts: the local one with small commands, others on made-up tools."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = sorted(f.name for f in LAUNCH.iterdir() if f.suffix != ".md")
TIMEOUT = 120  # seconds; nothing here takes as long
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
