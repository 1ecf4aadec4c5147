"""Kills or stops one of two processes of a run, and looks at what the other does.

    python tests/soak/lost_process.py --lost-after 20

For either process, and for SIGKILL and SIGSTOP (which hangs it): the other one must end
within the configured time and some seconds, not with code 0, and must say why. Both
started again must then come to the end of the run.
"""

import argparse
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPARE = 60  # seconds beyond `lost_after`: for machines that are busy
LONGEST = 600  # seconds that a start may take in all


def start(workdir: Path, lost_after: int, logs: list[Path]) -> list[subprocess.Popen]:
    """Starts both processes of a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for index, log in enumerate(logs):
        command = [
            *(sys.executable, "-m", "hkdnet_jax.main"),
            *("--config=configs/teacher.py:tiny", f"--workdir={workdir}"),
            *("--config.log_every_steps=1", "--config.train.epochs=40"),
            *("--config.tensorboard=False", f"--config.lost_after={lost_after}"),
            *(f"--coordinator=localhost:{port}", "--processes=2", f"--process={index}"),
        ]
        with log.open("w") as file:
            started.append(
                subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
            )
    return started


def rows(workdir: Path) -> int:
    """Number of rows in a run's log."""
    file = workdir / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def lose(folder: Path, which: int, name: str, lost_after: int) -> tuple[float, str]:
    """Loses process `which` by a signal; returns how long the other one went on.

    Returns:
      Seconds, and the last line that the other one said of it.

    Raises:
      AssertionError: the other one does not end in time, or as if nothing had been, or
        says nothing; or the run cannot be continued.
    """
    workdir, logs = folder / "run", [folder / f"{i}.log" for i in range(2)]
    both = start(workdir, lost_after, logs)
    try:
        deadline = time.monotonic() + LONGEST
        while rows(workdir) < 5:
            assert time.monotonic() < deadline, "the run does not begin"
            assert both[0].poll() is None, logs[0].read_text()
            time.sleep(0.02)
        both[which].send_signal(getattr(signal, name))
        lost = time.monotonic()
        code = both[1 - which].wait(lost_after + SPARE)
        seconds = time.monotonic() - lost
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert code != 0, "it ended as if nothing had happened"
    said = logs[1 - which].read_text().strip().splitlines()
    reasons = [line for line in said if "error" in line.lower()]
    assert reasons, said[-5:]
    both = start(workdir, lost_after, logs)
    codes = [process.wait(LONGEST) for process in both]
    assert codes == [0, 0], [log.read_text()[-2000:] for log in logs]
    return seconds, f"code {code}: {reasons[-1][:200]}"


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lost-after", type=int, default=20, help="seconds")
    lost_after = parser.parse_args().lost_after
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "HKDNET_CACHE": f"{folder}/compiled",
        }
        for which, name in itertools.product((1, 0), ("SIGKILL", "SIGSTOP")):
            one = Path(folder) / f"{which}{name}"
            one.mkdir()
            seconds, said = lose(one, which, name, lost_after)
            print(f"process {which}, {name}: {seconds:.0f} s, {said}", flush=True)


if __name__ == "__main__":
    main()
