"""Real runs of the command, killed with SIGKILL and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from train_fixtures import read_rows

from hkdnet_jax import weights

ROOT = Path(__file__).parent.parent
TIMEOUT = 300  # seconds
STEPS = 16  # 4 epochs of 4 steps; of a student's, 2 epochs are phase 1


def command(config: str, workdir: Path, *overrides: str) -> subprocess.Popen:
    """Starts a tiny run with one device that logs each step."""
    argv = [
        *(sys.executable, "-m", "hkdnet_jax.main", f"--config={config}"),
        *(f"--workdir={workdir}", "--config.log_every_steps=1"),
        *("--config.train.epochs=4", *overrides),
    ]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(argv, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def logged_step(workdir: Path) -> int:
    """The last step that the run has logged so far, 0 before the first."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def kill_after(step: int, process: subprocess.Popen, workdir: Path) -> None:
    """Kills the run, without warning, once it has logged `step`."""
    deadline = time.monotonic() + TIMEOUT
    while logged_step(workdir) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors


def final_arrays(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint: parameters, moments, averages, counters."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir / "checkpoints" / str(STEPS) / "state")
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_end(broken: Path, whole: Path) -> None:
    a, b = final_arrays(broken), final_arrays(whole)
    assert a.keys() == b.keys() and len(a) > 10
    for name in b:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    kept = [folder / weights.WEIGHTS_FILE for folder in (broken, whole)]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    # The log neither repeats nor misses a step.
    assert [r["step"] for r in read_rows(broken) if "train/loss" in r] == list(
        range(1, STEPS + 1)
    )
    assert read_rows(broken) == read_rows(whole)


@pytest.mark.parametrize(
    ("config", "overrides", "kills"),
    [
        ("teacher", (), (10,)),
        # 6 lies in phase 1, 13 in phase 2; checkpoints are at 3, 6, 9, ...
        (
            "student_x2",
            (
                "--config.train.phase1_epochs=2",
                "--config.optim.ema=0.9",
                "--config.model.dfag=False",  # sooner compiled
                "--config.model.cea=False",
            ),
            (6, 13),
        ),
    ],
)
def test_killed_run_ends_bit_equal(config, overrides, kills, tmp_path, tiny_teacher):
    config = f"configs/{config}.py:tiny"
    overrides = [*overrides, f"--config.teacher.dir={tiny_teacher}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(command(config, whole, *overrides))
    for step in kills:
        kill_after(step, command(config, broken, *overrides), broken)
    finish(command(config, broken, *overrides))
    assert_same_end(broken, whole)


def test_terminated_run_saves_and_exits_143(tmp_path):
    seldom = "--config.checkpoint_every_steps=1000"
    process = command("configs/teacher.py:tiny", tmp_path, seldom)
    deadline = time.monotonic() + TIMEOUT
    while logged_step(tmp_path) < 1:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.terminate()
    process.communicate(timeout=TIMEOUT)
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert process.returncode == 143 and len(saved) == 1 and 1 <= saved[0] < STEPS
