"""A run's folder: checked, held for one process, trained in."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import filelock
import jax
from ml_collections import ConfigDict

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local
from hkdnet_jax.training import loop
from hkdnet_jax.training.checkpoint import Checkpoints
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.networks import describe_network
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.writers import Writer, write_run_info


def check_workdir(config: ConfigDict, workdir: Any) -> None:
    """Raises UserError when `workdir`, a path, holds a run with another network."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a folder.")
    file = workdir / "config.json"
    if not file.exists():
        return
    try:
        old = describe_network(ConfigDict(json.loads(file.read_text())))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{file} is not of a run of this program: choose another --workdir."
        ) from None
    new = describe_network(config)
    differing = [k for k in old.keys() | new.keys() if old.get(k) != new.get(k)]
    if differing:
        raise UserError(
            f"{workdir} holds a run with another model (it differs in "
            f"{', '.join(sorted(differing))}): choose another --workdir."
        )


@contextlib.contextmanager
def sole_user(workdir: Any) -> Iterator[None]:
    """Holds `workdir` for this process; two runs in it would undo each other's saves.

    The lock is the operating system's, so it ends with the process, however killed. An
    object store has no locks: there nothing is held.

    Args:
      workdir: a path; made when it is missing.

    Raises:
      UserError: another process holds it, or the folder cannot be written.
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


def _say_what_is_unusual(training: Run) -> None:
    """On stderr, what a user may not have meant."""
    config, used, present = training.config, training.mesh.size, jax.device_count()
    if not config.data.roots:
        print(
            f"Warning: config.data.roots is empty, so all {config.train.epochs} epochs "
            f"of this run train on {config.data.scenes} drawn scenes and on no real "
            "picture; name folders that hold ir/ and vis/ with "
            "--config.data.roots=FOLDER,FOLDER.",
            file=sys.stderr,
        )
    if used < present:
        print(
            f"Warning: config.mesh.data={used} leaves {present - used} of {present} "
            "devices idle; 0 uses all of them.",
            file=sys.stderr,
        )


def run(config: ConfigDict, workdir: str) -> bool:
    """Trains what `config` says in `workdir`; True when the run is complete.

    Args:
      config: locked configuration.
      workdir: a folder of this machine, or an address such as gs://bucket/runs/x2.

    Raises:
      UserError: configuration, data, teacher or workdir are not as they must be, or
        another process trains in the workdir.
    """
    folder = as_path(workdir)
    check_config(config)
    check_workdir(config, folder)
    training = Run(config)
    main_process = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(sole_user(folder))
            devices = [device.device_kind for device in training.mesh.devices.flat]
            write_run_info(folder, config.to_dict(), devices)
            _say_what_is_unusual(training)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder)))
        writer = Writer(
            folder,
            start_step=checkpoints.latest_step() or 0,
            tensorboard=config.tensorboard,
            enabled=main_process,
        )
        stack.enter_context(contextlib.closing(writer))
        return loop.train(training, folder, checkpoints, writer)
