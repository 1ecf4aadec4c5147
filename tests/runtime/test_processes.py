"""Runs of several real processes: they train as one, stop together, end together."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from train_fixtures import read_rows

from configs import student_x2
from hkdnet_jax import main
from hkdnet_jax.model_files import file_format
from hkdnet_jax.training.checkpoint import Checkpoints
from hkdnet_jax.training.run import Run

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
TIMEOUT = 300  # seconds; what hangs must not hang the suite

# `python -m hkdnet_jax.main`, but that one process sends itself SIGTERM when the row of
# a step has been logged.
TERMINATED = """
import os, signal, sys, time
from hkdnet_jax import main
from hkdnet_jax.runtime import processes
from hkdnet_jax.training import writers

step, *arguments = sys.argv[1:]
original = writers.Writer.scalars

def scalars(self, at, values):
    original(self, at, values)
    if at == int(step) and "--process=1" in arguments:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)  # jax's service needs up to a second, these steps less

writers.Writer.scalars = scalars
processes.end_with(lambda: main.main(arguments))
"""
# One process fails while the other waits for it in a computation, as in a train step.
FAILING = """
import sys
from jax.experimental import multihost_utils
from hkdnet_jax.runtime import processes

def main():
    place = [flag.partition("=")[2] for flag in sys.argv[1:]]
    processes.join(*place, lost_after=60)
    if place[-1] == "1":
        raise ZeroDivisionError
    multihost_utils.sync_global_devices("a step")
    print("Done")
    return 0

processes.end_with(main)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Two CPU devices a process, which compile each program once in all."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _launch(number, command, environment):
    """Exit code and all output of `launch/local.sh`."""
    process = subprocess.Popen(
        [LAUNCH / "local.sh", str(number), *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


# A whole run


STEPS = 8  # 2 epochs of 4
ASKED_AT = 2  # when one process gets SIGTERM; both stop at some step after it
OVERRIDES = {
    "train.epochs": 2,
    "train.phase1_epochs": 0,  # processes share its steps as they do those of phase 2
    "log_every_steps": 1,
    "val_metrics": "CC,AG",
    "val_metrics_every_epochs": 1,
    "optim.ema": 0.9,
    # Adam blows the rounding of a gradient that is nearly 0 up to a whole step:
    # clipped, such a gradient is below its epsilon.
    "optim.clip_norm": 1.0,
    "optim.lr": 1e-4,
    # Less to trace, to compile and to compute.
    "train.batch_size": 4,
    "data.samples_per_epoch": 16,
    "loss.phi": 0.0,
    "model.cea": False,
    "model.dfag": False,
    "model.sr_rcabs": 1,
}


@pytest.fixture(scope="module")
def runs(environment, tiny_teacher, tmp_path_factory):
    """Workdirs of one run of one process, and two of two, one of them stopped."""
    folder = tmp_path_factory.mktemp("runs")

    def flags(name):
        overrides = OVERRIDES | {"teacher.dir": tiny_teacher}
        config = [f"--config.{key}={value}" for key, value in overrides.items()]
        workdir = f"--workdir={folder / name}"
        return ["--config=configs/student_x2.py:tiny", workdir, *config]

    program = [sys.executable, "-m", "hkdnet_jax.main"]
    code, output = _launch(2, [*program, *flags("two")], environment)
    assert code == 0, output
    assert output.count("Done; the best weights") == 1
    agreed = "agree on code, configuration, data listing and frozen weights."
    assert output.count(agreed) == 1 and "2 processes on" in output

    terminated = [sys.executable, "-c", TERMINATED, f"{ASKED_AT}"]
    code, output = _launch(2, [*terminated, *flags("stopped")], environment)
    assert code == 143, output
    assert output.count("same command continues") == 1
    with contextlib.closing(Checkpoints(folder / "stopped")) as checkpoints:
        assert ASKED_AT < checkpoints.latest_step() < STEPS
    code, output = _launch(2, [*program, *flags("stopped")], environment)
    assert code == 0, output

    assert main.main(flags("one")) == 0
    return folder


@pytest.fixture(scope="module")
def restore(tiny_teacher):
    """A function of a workdir: its last state, place in the data and meta."""
    config = student_x2.get_config("tiny")
    config.update_from_flattened_dict(OVERRIDES | {"teacher.dir": str(tiny_teacher)})
    run = Run(config)

    def restored(workdir):
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            assert checkpoints.latest_step() == run.total_steps == STEPS
            return checkpoints.restore(run.abstract_state())

    return restored


def test_a_run_that_one_process_was_told_to_stop_ends_as_if_not(runs, restore):
    two, stopped = restore(runs / "two"), restore(runs / "stopped")
    jax.tree.map(np.testing.assert_array_equal, two[0], stopped[0])
    assert two[1:] == stopped[1:]
    assert read_rows(runs / "two") == read_rows(runs / "stopped")
    kept = [file_format.load_model(runs / name) for name in ("two", "stopped")]
    jax.tree.map(np.testing.assert_array_equal, *kept)


def test_two_processes_train_as_one(runs, restore):
    one, two = restore(runs / "one"), restore(runs / "two")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        (one[0].params, one[0].ema),
        (two[0].params, two[0].ema),
    )
    assert one[1] == two[1], "the place in the data does not depend on the processes"
    rows = [read_rows(runs / name) for name in ("one", "two")]
    for row, other in zip(*rows, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert sum("val/CC" in row for row in rows[0]) == 2


def test_one_process_writes_what_one_process_would(runs):
    one, two = (
        sorted(str(f.relative_to(runs / name)) for f in (runs / name).rglob("*"))
        for name in ("one", "two")
    )
    written = [[f for f in files if "checkpoints/" not in f] for files in (one, two)]
    assert written[0] == written[1]
    pictures = [f for f in written[0] if f.endswith(".png")]
    assert len(pictures) == 2 * 3  # all pairs, each time


def test_one_that_fails_ends_all(environment):
    code, output = _launch(2, [sys.executable, "-c", FAILING], environment)
    assert code == 1, output
    assert "ZeroDivisionError" in output
    assert "Done" not in output


# Wrong input


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--processes=2", "--process=0"), "need --coordinator=HOST:PORT"),
        (("--coordinator=here",), "--coordinator=here is neither HOST:PORT nor auto"),
        (("--coordinator=here:1",), "--processes= --process=: give the number of"),
        (
            ("--coordinator=here:1", "--processes=2", "--process=2"),
            "--processes=2 --process=2: give the number of processes, and which",
        ),
    ],
)
def test_senseless_flags(tmp_path, capsys, flags, says):
    config = "--config=configs/teacher.py:tiny"
    assert main.main([config, f"--workdir={tmp_path / 'run'}", *flags]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_cluster(environment, tmp_path):
    # In a process of its own: jax joins others before it has looked at its devices.
    flags = ["--config=configs/teacher.py:tiny", f"--workdir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "hkdnet_jax.main", *flags, "--coordinator=auto"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    (line,) = done.stderr.splitlines()
    assert "finds no TPU slice, Slurm or Open MPI job here" in line


def test_a_batch_that_the_devices_do_not_divide(environment, tiny_teacher, tmp_path):
    flags = ["--config=configs/student_x2.py:tiny", f"--workdir={tmp_path}"]
    flags += [f"--config.teacher.dir={tiny_teacher}", "--config.train.batch_size=6"]
    command = [sys.executable, "-m", "hkdnet_jax.main", *flags]
    code, output = _launch(2, command, environment)
    assert code == 1, output
    assert "batch_size is 6" in output and "4 devices" in output
    assert "Traceback" not in output
