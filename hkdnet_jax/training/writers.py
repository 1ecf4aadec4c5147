"""Writes a training run's numbers and pictures; the only file that imports clu.

Files in the run's folder (WORKDIR):
  metrics.jsonl                    one JSON object per line: {"step": 100, "loss": 0.5}
  tensorboard/                     the same numbers and pictures, for TensorBoard
  samples/step_00000100/NAME.png   pictures
  config.json, environment.json    configuration, software and devices of the run

A number that is not finite is `null` in metrics.jsonl, because JSON has no NaN;
TensorBoard gets it unchanged. TensorFlow, which clu needs, is imported only when a
Writer with `tensorboard=True` is created; if that fails, the run continues without
TensorBoard.
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
from hkdnet_jax.common.errors import UserError, install_command
from hkdnet_jax.common.paths import as_path, is_local


class Writer:
    """Writes the scalars and pictures of one run.

    Args:
      workdir: the run's folder, created if it is missing.
      start_step: step of the checkpoint that the run continues from, 0 for a new run.
        Rows of metrics.jsonl that an earlier, killed run wrote after this step are
        dropped, because the run will write them again; 0 drops all rows. TensorBoard
        keeps its points and draws the repeated ones over them.
      tensorboard: whether to write for TensorBoard too.
      enabled: if False, nothing is written; to be set in all processes but one of a
        multi-process run.
    """

    def __init__(
        self,
        workdir: Any,
        start_step: int = 0,
        tensorboard: bool = True,
        enabled: bool = True,
    ):
        """Opens the run's files.

        Raises:
          UserError: metrics.jsonl cannot be written.
        """
        self._workdir = as_path(workdir)
        self._enabled = enabled
        self._rows = None
        self._tensorboard = None
        if enabled:
            self._rows = _Rows(self._workdir / "metrics.jsonl", start_step)
        if enabled and tensorboard:
            self._tensorboard = _open_tensorboard(self._workdir / "tensorboard")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row, which survives a kill of this process after the return."""
        if not self._enabled:
            return
        values = {name: float(value) for name, value in values.items()}
        row = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._rows.append(json.dumps({"step": step, **row}))
        if self._tensorboard:
            self._tensorboard.write_scalars(step, values)
            self._tensorboard.flush()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures.

        Args:
          step: number of steps taken.
          images: uint8 [H, W] or [H, W, 3] by name; a '/' in a name becomes '_' in the
            name of the file.
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
        """Closes the run's files; nothing can be written afterwards."""
        if self._rows:
            self._rows.close()
        if self._tensorboard:
            self._tensorboard.close()


class _Rows:
    """The lines of metrics.jsonl; an object store gets the file anew for each line."""

    def __init__(self, path: Any, start_step: int):
        """Drops incomplete rows and those after `start_step`; all rows if it is 0."""
        self._path = path
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        lines = text.splitlines()
        kept = [line for line in lines if start_step and _step_of(line) <= start_step]
        self._content = "".join(f"{line}\n" for line in kept)
        # Even if nothing is dropped: a place that is not writable shows up early.
        atomic_files.write_atomically(path, self._content.encode())
        # Stays open until `close`.
        self._file = path.open("a", encoding="utf-8") if is_local(path) else None

    def append(self, line: str) -> None:
        """Adds a line, which survives a kill of this process after the return.

        Raises:
          UserError: the disk is full, or the file cannot be written to any more.
        """
        if self._file:
            try:
                self._file.write(f"{line}\n")
                self._file.flush()
            except OSError as error:  # of an open file, so it does not name it
                raise UserError(
                    f"{self._path} cannot be written ({error.strerror}): free some "
                    "disk space, or check that the storage is there; the same command "
                    "then continues from the last whole checkpoint."
                ) from error
        else:
            self._content += f"{line}\n"
            atomic_files.write_atomically(self._path, self._content.encode())

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            # What could not be written, `append` has reported.
            with contextlib.suppress(OSError):
                self._file.close()


def write_run_info(
    workdir: Any, config: Mapping[str, Any], devices: Sequence[str]
) -> None:
    """Writes config.json and environment.json, replacing those of an earlier start.

    Only one process of a multi-process run may call it.

    Args:
      workdir: the run's folder, created if it is missing.
      config: JSON-serialisable nested dict.
      devices: one name per device of the run, e.g. `[d.device_kind for d in
        jax.devices()]`.

    Raises:
      UserError: a file cannot be written.
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
    """The revision of the checkout that tracks the folder.

    Returns:
      A dict of `revision`, the hash, and `dirty`, whether files which git tracks differ
      from the revision. None if no checkout tracks the folder (as for a copy of this
      package in an ignored .venv of another checkout), or if git is missing.
    """
    if not _git(folder, "ls-files"):
        return None
    revision = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if not revision or status is None:
        return None
    return {"revision": revision, "dirty": bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a read-only git command, or None if it fails."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        # S603: git is given no text from outside, and there is no shell.
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed_packages() -> dict[str, str]:
    found = {d.name: d.version for d in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _step_of(line: str) -> float:
    """The step of a row; infinity if the line is not a row."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _open_tensorboard(folder: Path) -> Any:
    """A clu writer, or None with one sentence on stderr if TensorFlow is unusable."""
    try:
        with _quiet_tensorflow():
            import tensorflow as tf
            from clu import metric_writers

            # The accelerator is for jax; TensorFlow would take all of its memory.
            tf.config.set_visible_devices([], "GPU")
            return metric_writers.SummaryWriter(str(folder))
    # A broken installation can raise anything; a log must not stop the training.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, ModuleNotFoundError):
            reason = f"{reason}: {install_command('train')}"
        print(
            f"Warning: no TensorBoard files are written, because TensorFlow cannot be "
            f"used ({reason}); metrics.jsonl holds the numbers.",
            file=sys.stderr,
        )
        return None


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Silences TensorFlow's start-up messages and its deprecation warnings.

    The environment variables are restored afterwards, because XLA obeys the first one
    too. Values that the user has set are kept.
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
