"""Runs in processes of their own, killed and started again with the same command.

The unbroken runs, and the last part of each killed one, run in this process, whose
programs are compiled apart from those of the others: equal programs, not only the same
one, and the seconds of two starts less.
"""

import contextlib
import os
import random
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
TIMEOUT = 600  # seconds; a run takes some, and more on a machine that is busy

# `python -m hkdnet_jax.main`, but that it kills itself at some moment: when the row of
# a step has been written, or when the saving of a step has begun.
KILLED = """
import os, signal, sys
from hkdnet_jax import main
from hkdnet_jax.training import checkpoint, writers

moment, step, *arguments = sys.argv[1:]
owner, method = {
    "row": (writers.Writer, "scalars"),
    "save": (checkpoint.Checkpoints, "save"),
}[moment]
original = getattr(owner, method)

def killed(self, at, *args, **kwargs):
    original(self, at, *args, **kwargs)
    if at == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, method, killed)
sys.exit(main.main(arguments))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Programs compiled once for all the processes, with as many devices as here.

    The number of devices is that of the threads at least, which sums may depend on.
    """
    cache = tmp_path_factory.mktemp("compiled")
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(jax.device_count()),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _start(arguments, environment, *python):
    return subprocess.Popen(
        [sys.executable, *(python or ("-m", "hkdnet_jax.main")), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process):
    """Exit code and standard error."""
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, errors


def _assert_same_end(config, workdir, other):
    """Equal to the last bit: weights, every array of the state, place in the data."""
    kept, expected = (file_format.load_model(folder) for folder in (workdir, other))
    jax.tree.map(np.testing.assert_array_equal, kept, expected)
    run, ends = Run(config), []
    for folder in (workdir, other):
        with contextlib.closing(Checkpoints(folder)) as checkpoints:
            assert checkpoints.latest_step() == run.total_steps
            ends.append(checkpoints.restore(run.abstract_state()))
    jax.tree.map(np.testing.assert_array_equal, ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]
    # Every row too: all steps once, in order, with the very same numbers.
    assert read_rows(workdir) == read_rows(other)


def test_a_student_killed_in_each_phase_ends_as_if_it_had_not_been(
    environment, tiny_teacher, tmp_path, capfd
):
    overrides = {
        "teacher.dir": str(tiny_teacher),
        "train.epochs": "3",  # of 4 steps; the first epoch is phase 1
        "train.batch_size": "2",
        "data.samples_per_epoch": "8",
        "log_every_steps": "1",
        "optim.ema": "0.9",
        "mesh.data": "1",
        # Less to compile.
        "model.cea": "False",
        "model.dfag": "False",
        "model.sr_rcabs": "1",
    }

    def arguments(workdir):
        flags = [f"--config.{key}={value}" for key, value in overrides.items()]
        return ["--config=configs/student_x2.py:tiny", f"--workdir={workdir}", *flags]

    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert main.main(arguments(unbroken)) == 0
    output, errors = capfd.readouterr()
    assert str(unbroken) in output
    assert "Traceback" not in errors
    assert [r["step"] for r in read_rows(unbroken) if "train/loss" in r] == [
        *range(1, 13)
    ]

    # In phase 1, a step after the checkpoint of step 3; then, in phase 2, while that of
    # step 9 is being written.
    for moment, step in (("row", 4), ("save", 9)):
        flags = [moment, str(step), *arguments(killed)]
        code, errors = _finish(_start(flags, environment, "-c", KILLED))
        assert code == -signal.SIGKILL, errors
    assert main.main(arguments(killed)) == 0

    config = student_x2.get_config("tiny")
    config.update_from_flattened_dict(
        {key: _as(_get(config, key), value) for key, value in overrides.items()}
    )
    _assert_same_end(config, killed, unbroken)


def _as(default, text):
    """A flag's text as a value of the default's type."""
    return text == "True" if isinstance(default, bool) else type(default)(text)


def _get(config, path):
    for key in path.split("."):
        config = config[key]
    return config


def test_a_teacher_killed_twenty_times_at_random_moments():
    seed = str(random.SystemRandom().randrange(10**6))
    command = [sys.executable, ROOT / "tests/soak/kill_resume.py", "--seed", seed]
    command += ["--kills", "20", "--minutes", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    assert done.stdout.startswith("20 kills, "), done.stdout
