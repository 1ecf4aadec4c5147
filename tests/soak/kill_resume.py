"""Kills a training run at random moments, starts it again, and looks at what it left.

    python tests/soak/kill_resume.py --kills 300 --minutes 60

A run of a teacher is killed (SIGKILL) again and again, until a start of it comes to
the end; then the next run begins. Half of the kills come at any moment from the start
of the process on, half while steps, saves and validations take place. Each run must end
like one that was never killed, to the last bit: the checksum of its last checkpoint
(state, optimizer, place in the data), its best weights, every row of its log, and the
names of all its files, so that no temporary file is left. The time is bounded; the
number of kills that it was enough for is printed.

All starts are forked from one process that has imported everything, because importing
takes most of the time of such a small run.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hkdnet_jax.common import trees
from hkdnet_jax.model_files import file_format

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "teacher.py:tiny")
OVERRIDES = {
    "train.epochs": 5,  # of 4 steps, each with a validation
    "train.batch_size": 2,  # of the 8 samples of an epoch: less to compute
    "data.samples_per_epoch": 8,
    "log_every_steps": 1,
    "checkpoint_every_steps": 2,
    "mesh.data": 1,
    "tensorboard": False,
}
LONGEST_START = 1200  # seconds; a start that takes longer hangs, even on a busy machine


@dataclasses.dataclass
class Report:
    """What the kills did.

    Attributes:
      kills: number of processes killed.
      in_training: how many of them had begun to take steps.
      runs: number of runs that came to their end, and were equal to the unbroken one.
      most_remains: the largest number of temporary files that a kill left.
    """

    kills: int = 0
    in_training: int = 0
    runs: int = 0
    most_remains: int = 0


def start(context: Any, workdir: Path) -> Any:
    """Starts `hkdnet_jax.main` in a process of its own."""
    flags = [f"--config.{key}={value}" for key, value in OVERRIDES.items()]
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}", *flags]
    process = context.Process(target=_train, args=(arguments, f"{workdir}.log"))
    process.start()
    return process


def _train(arguments: list[str], log: str) -> None:
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from hkdnet_jax import main

    sys.exit(main.main(arguments))


def wait(process: Any, workdir: Path) -> None:
    """Waits for the end of a process that must succeed.

    Raises:
      AssertionError: it failed, or hangs.
    """
    process.join(LONGEST_START)
    said = Path(f"{workdir}.log").read_text()[-2000:]
    assert process.exitcode == 0, f"exit code {process.exitcode}:\n{said}"


def kill(process: Any, workdir: Path, drawn: random.Random, seconds: float) -> bool:
    """Kills a process at a random moment; False if it ended by itself before.

    Args:
      process: it, just started.
      workdir: of its run.
      drawn: the moment.
      seconds: how long a whole run takes.
    """
    if drawn.random() < 0.5:
        process.join(drawn.uniform(0, seconds))
    else:
        size, deadline = _log_size(workdir), time.monotonic() + LONGEST_START
        while _log_size(workdir) == size and process.is_alive():
            assert time.monotonic() < deadline, "a start hangs"
            process.join(0.002)
        process.join(drawn.uniform(0, seconds / 3))
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), Path(f"{workdir}.log").read_text()
    return process.exitcode != 0


def _log_size(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    return file.stat().st_size if file.exists() else 0


def remains(workdir: Path) -> int:
    """The number of temporary files and folders in a run's folder."""
    return sum("tmp" in path.name for path in workdir.rglob("*"))


def end_of(workdir: Path) -> dict[str, Any]:
    """All that a run leaves that must not depend on how often it was killed."""
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    meta = workdir / "checkpoints" / str(steps[-1]) / "meta" / "metadata"
    names = (path.relative_to(workdir) for path in workdir.rglob("*"))
    return {
        "steps of the checkpoints": steps,
        "checksum of the last one": json.loads(meta.read_text())["sha256"],
        # Not the bytes of the file: the order of its metadata is that of a hash table.
        "best weights": trees.fingerprint(file_format.load_model(workdir)[1]),
        "log": (workdir / "metrics.jsonl").read_text(),
        "files": sorted(str(name) for name in names if len(name.parts) < 3),
        "pictures": len(list((workdir / "samples").rglob("*.png"))),
    }


def run(folder: Path, kills: int, minutes: float, seed: int) -> Report:
    """Kills runs in `folder` until there were enough kills or the time is up.

    Raises:
      AssertionError: a run did not end like the unbroken one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["soak_preload"])
    deadline, drawn = time.monotonic() + 60 * minutes, random.Random(seed)
    unbroken, report = folder / "unbroken", Report()
    wait(start(context, unbroken), unbroken)  # compiles
    began = time.monotonic()
    again = folder / "again"
    wait(start(context, again), again)
    seconds, expected = time.monotonic() - began, end_of(unbroken)
    assert end_of(again) == expected, "two unbroken runs differ"
    while report.kills < kills and time.monotonic() < deadline:
        workdir = folder / f"run{report.runs}"
        while report.kills < kills and time.monotonic() < deadline:
            size = _log_size(workdir)
            process = start(context, workdir)
            if not kill(process, workdir, drawn, seconds):
                break
            report.kills += 1
            report.in_training += _log_size(workdir) != size
            report.most_remains = max(report.most_remains, remains(workdir))
            print(report, file=sys.stderr)
        # Killed or not: a finished run that is started again does nothing.
        wait(start(context, workdir), workdir)
        found = end_of(workdir)
        for name, value in expected.items():
            assert found[name] == value, f"{workdir}: other {name} after its kills"
        report.runs += 1
    return report


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        }
        found = run(Path(folder), arguments.kills, arguments.minutes, arguments.seed)
    print(
        f"{found.kills} kills, {found.in_training} of them while training; "
        f"{found.runs} runs ended as if they had not been killed; at most "
        f"{found.most_remains} temporary files at a time, and none at the end"
    )


if __name__ == "__main__":
    main()
