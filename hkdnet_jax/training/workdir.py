"""A run's folder: checking it, locking it for one process, and training in it."""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import filelock
import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines import loader
from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.arrays import to_float
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local
from hkdnet_jax.runtime import agreement
from hkdnet_jax.training import loop
from hkdnet_jax.training.checkpoint import Checkpoints, check_storage
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.writers import Writer, write_run_info

_LOOKED_AT = 16  # validation pairs, for features that are 0 everywhere


def check_workdir(config: ConfigDict, workdir: Any, run_class: type[Run] = Run) -> None:
    """Raises UserError if the path is a file or holds a run of another network."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a folder.")
    file = workdir / "config.json"
    if not file.exists():
        return
    try:
        old = run_class.describe(ConfigDict(json.loads(file.read_text())))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{file} was not written by this program: choose another --workdir."
        ) from None
    new = run_class.describe(config)
    differing = [k for k in old.keys() | new.keys() if old.get(k) != new.get(k)]
    if differing:
        raise UserError(
            f"{workdir} holds a run with another model (it differs in "
            f"{', '.join(sorted(differing))}): choose another --workdir."
        )


@contextlib.contextmanager
def sole_user(workdir: Any) -> Iterator[None]:
    """Locks `workdir` for this process; two runs in it would undo each other's saves.

    The lock is the operating system's, so it ends with the process, even a killed one.
    An object store has no locks, so nothing is locked there.

    Args:
      workdir: a path, created if it is missing.

    Raises:
      UserError: another process holds the lock.
      OSError: the folder cannot be created or written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = contextlib.nullcontext()
        if is_local(workdir):
            lock = filelock.FileLock(workdir / ".lock", blocking=False)
        with lock:
            yield
    except filelock.Timeout:
        raise UserError(
            f"Another process is training in {workdir}: wait for it, stop it, or "
            "choose another --workdir."
        ) from None


def _warn_of_oversights(training: Run) -> None:
    """Warns on stderr of settings that the user may not have intended."""
    config, used, available = training.config, training.mesh.size, jax.device_count()
    if not (config.data.roots or config.data.tfds):
        print(
            f"Warning: config.data.roots is empty, so all {config.train.epochs} epochs "
            f"of this run train on {config.data.scenes} procedural scenes and on no "
            "real pictures; name folders that hold ir/ and vis/ with "
            "--config.data.roots=FOLDER,FOLDER.",
            file=sys.stderr,
        )
    if used < available:
        print(
            f"Warning: config.mesh.data={used} leaves {available - used} of "
            f"{available} devices idle; 0 uses all of them.",
            file=sys.stderr,
        )


def _warn_of_dead_features(training: Run) -> None:
    """Warns on stderr of features that are to teach but are 0 everywhere."""
    config = training.config
    learns = config.loss.phi > 0 or config.train.phase1_epochs > 0
    if config.kind != "student" or not learns:
        return
    apply = jax.jit(training.teacher.apply)
    frozen = jax.device_get(training.frozen)
    batches = loader.val_batches(
        training.val_source, crop=config.data.val_crop, batch_size=1
    )
    fires: dict[str, np.ndarray] = {}  # [C] bool by layer
    for batch in itertools.islice(batches, min(_LOOKED_AT, len(training.val_source))):
        _, out = apply({"params": frozen}, *(to_float(batch[k]) for k in ("ir", "vis")))
        for name in ("decoder1", "decoder3"):
            here = np.asarray(out[name] > 0).any(axis=(0, 1, 2))
            fires[name] = fires.get(name, False) | here
    for name, alive in fires.items():
        dead = np.size(alive) - np.sum(alive)
        if dead:
            print(
                f"Warning: {dead} of {len(alive)} channels ({dead / len(alive):.0%}) "
                f"of the teacher's {name} are 0 everywhere, and teach the student "
                "nothing; to avoid it, go on from it with configs/teacher.py:revive.",
                file=sys.stderr,
            )


def _check_agreement(training: Run) -> None:
    """Raises UserError if the processes of the run do not train the same thing."""
    listing = [*training.train_source.names, "", *training.val_source.names]
    agreement.check(
        {
            "code": agreement.code_version(),
            "configuration": agreement.digest(training.config.to_json(sort_keys=True)),
            "data listing": agreement.digest("\n".join(listing)),
            "frozen weights": training.frozen_fingerprint,
        }
    )


def run(config: ConfigDict, workdir: str, run_class: type[Run] = Run) -> bool:
    """Trains the run that `config` describes in `workdir`.

    Args:
      config: locked configuration.
      workdir: a folder of this machine, or an address such as gs://bucket/runs/x2.
      run_class: `Run`, or a subclass for other networks.

    Returns:
      True if the run is complete, False if SIGTERM ended it early and it was saved.

    Raises:
      UserError: the configuration, the data, the teacher or the workdir cannot be used,
        a program does not fit into memory, training diverged, no checkpoint is whole or
        can be written, another process is training in the workdir, or the processes of
        the run differ in their code, configuration, data or teacher.
    """
    check_storage(workdir)
    folder = as_path(workdir)
    check_config(config)
    check_workdir(config, folder, run_class)
    training = run_class(config)
    if jax.process_count() > 1:
        _check_agreement(training)
    main_process = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(sole_user(folder))
            if is_local(folder):
                atomic_files.remove_remains(folder)
            devices = [device.device_kind for device in training.mesh.devices.flat]
            write_run_info(folder, config.to_dict(), devices)
            _warn_of_oversights(training)
            _warn_of_dead_features(training)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder)))
        beginning = loop.begin(training, checkpoints)
        writer = Writer(
            folder,
            start_step=beginning.step,
            tensorboard=config.tensorboard,
            enabled=main_process,
        )
        stack.enter_context(contextlib.closing(writer))
        return loop.train(training, folder, checkpoints, writer, beginning)
