"""Where a training run's numbers and pictures go; the only file that imports clu.

In the run's folder (WORKDIR):
  metrics.jsonl                    one JSON object a line: {"step": 100, "loss": 0.5}
  tensorboard/                     the same numbers and pictures, for TensorBoard
  samples/step_00000100/NAME.png   pictures
  config.json, environment.json    what was run, and with which software

A number that is not finite is `null` in metrics.jsonl, for JSON has no NaN; TensorBoard
gets it as it is. TensorFlow, which clu needs, is imported only when a Writer with
`tensorboard=True` is made; where that fails the run goes on without TensorBoard.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hkdnet_jax.common import atomic_files, image_files
from hkdnet_jax.common.errors import install_command
from hkdnet_jax.common.paths import as_path, is_local


class Writer:
    """Writes scalars and pictures of one run.

    Args:
        workdir: the run's folder, created when it is missing.
        start_step: step of the checkpoint that the run goes on from, 0 for a new run.
            Rows of metrics.jsonl that an earlier, killed run wrote after it are
            dropped, as the run will write them again; 0 drops all rows. TensorBoard
            keeps its points, and draws the repeated ones over them.
        tensorboard: whether to write for TensorBoard too.
        enabled: False (all processes but one of a multi-process run) writes nothing.
    """

    def __init__(
        self,
        workdir: Any,
        start_step: int = 0,
        tensorboard: bool = True,
        enabled: bool = True,
    ):
        """Open the run's files."""
        self._workdir = as_path(workdir)
        self._enabled = enabled
        self._rows = None
        self._tensorboard = None
        if enabled:
            self._rows = _Rows(self._workdir / "metrics.jsonl", start_step)
        if enabled and tensorboard:
            self._tensorboard = _open_tensorboard(self._workdir / "tensorboard")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; on return it survives a kill of this process."""
        if not self._enabled:
            return
        values = {name: float(value) for name, value in values.items()}
        row = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._rows.append(json.dumps({"step": step, **row}))
        if self._tensorboard:
            self._tensorboard.write_scalars(step, values)
            self._tensorboard.flush()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Write pictures: name -> uint8 [H,W] or [H,W,3].

        A '/' in a name becomes '_' in the file's name.
        """
        if not self._enabled:
            return
        folder = self._workdir / "samples" / f"step_{step:08d}"
        for name, image in images.items():
            path = folder / f"{name.replace('/', '_')}.png"
            atomic_files.write_atomically(path, image_files.encode(image, path))
        if self._tensorboard:
            batches = {k: v.reshape(1, *v.shape[:2], -1) for k, v in images.items()}
            self._tensorboard.write_images(step, batches)
            self._tensorboard.flush()

    def close(self) -> None:
        """Close the run's files; nothing can be written afterwards."""
        if self._rows:
            self._rows.close()
        if self._tensorboard:
            self._tensorboard.close()


class _Rows:
    """The lines of metrics.jsonl: appended to, or (on an object store) written anew."""

    def __init__(self, path: Any, start_step: int):
        """Drops the rows after `start_step`, all for 0, and what a kill cut short."""
        self._path = path
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        lines = text.splitlines()
        kept = [line for line in lines if start_step and _step_of(line) <= start_step]
        self._content = "".join(f"{line}\n" for line in kept)
        # Also with nothing to drop: it tells early that the place is not writable.
        atomic_files.write_atomically(path, self._content.encode())
        # Until `close`.
        self._file = path.open("a", encoding="utf-8") if is_local(path) else None

    def append(self, line: str) -> None:
        """Adds a line; on return it survives a kill of this process."""
        if self._file:
            self._file.write(f"{line}\n")
            self._file.flush()
        else:
            self._content += f"{line}\n"
            atomic_files.write_atomically(self._path, self._content.encode())

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()


def write_run_info(
    workdir: Any, config: Mapping[str, Any], devices: Sequence[str]
) -> None:
    """Write config.json and environment.json, replacing those of an earlier start.

    To be called by one process of a multi-process run.

    Args:
        workdir: the run's folder, created when it is missing.
        config: nested dict that JSON can hold.
        devices: one name per device of the run, e.g. `[d.device_kind for d in
            jax.devices()]`.
    """
    workdir = as_path(workdir)
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": list(devices),
        "git": git_revision(Path(__file__).parent),
        "packages": _installed_packages(),
    }
    for name, content in (("config", dict(config)), ("environment", environment)):
        path = workdir / f"{name}.json"
        atomic_files.write_atomically(path, atomic_files.to_json(content).encode())


def git_revision(folder: Path) -> dict[str, Any] | None:
    """`{"revision": hash, "dirty": bool}` of the checkout that tracks it, or None.

    Dirty: files that git tracks differ from the revision. None also for a copy of this
    package inside somebody else's checkout (an ignored .venv, say) and without git.
    """
    if not _git(folder, "ls-files"):
        return None
    revision = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if not revision or status is None:
        return None
    return {"revision": revision, "dirty": bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command that changes nothing, or None when it fails."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed_packages() -> dict[str, str]:
    found = {d.name: d.version for d in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _step_of(line: str) -> float:
    """Step of a row; infinity for what is no row."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _open_tensorboard(folder: Path) -> Any:
    """A clu writer, or None with one sentence on stderr when it cannot be had."""
    try:
        with _quiet_tensorflow():
            import tensorflow as tf
            from clu import metric_writers

            # JAX owns the accelerator; TensorFlow would take all of its memory.
            tf.config.set_visible_devices([], "GPU")
            return metric_writers.SummaryWriter(str(folder))
    # A broken installation raises whatever it likes; a log must not stop the training.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, ModuleNotFoundError):
            reason = f"{reason}: {install_command('train')}"
        print(
            f"Warning: no TensorBoard files are written, for TensorFlow cannot be used "
            f"({reason}); metrics.jsonl holds the numbers.",
            file=sys.stderr,
        )
        return None


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Silence TensorFlow's start-up lines and the deprecations inside it.

    The variables are as before afterwards: XLA obeys the first one too. A value of the
    user's stays.
    """
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    added = [name for name in quiet if name not in os.environ]
    os.environ.update({name: quiet[name] for name in added})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            del os.environ[name]
