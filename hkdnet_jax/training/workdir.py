"""A run's folder: checked, held for one process, trained in."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.training import loop
from hkdnet_jax.training.checkpoint import Checkpoints
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.networks import describe_network
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.writers import Writer, write_run_info


def check_workdir(config: ConfigDict, workdir: str | Path) -> None:
    """Raises UserError when `workdir` holds a run with another network."""
    file = Path(workdir) / "config.json"
    if Path(workdir).exists() and not Path(workdir).is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a folder.")
    if not file.exists():
        return
    try:
        old = describe_network(ConfigDict(json.loads(file.read_text())))
    except (AttributeError, KeyError, ValueError):
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
def sole_user(workdir: str | Path) -> Iterator[None]:
    """Holds `workdir` for this process; two runs in it would undo each other's saves.

    The lock is the operating system's, so it ends with the process, however killed.

    Raises:
      UserError: another process holds it, or the folder cannot be written.
    """
    try:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        file = open(Path(workdir) / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror}): choose another."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"Another process is training in {workdir}: wait for it, stop it, or "
                "choose another --workdir."
            ) from None
        yield


def run(config: ConfigDict, workdir: str | Path) -> bool:
    """Trains what `config` says in `workdir`; True when the run is complete.

    Raises:
      UserError: configuration, data, teacher or workdir are not as they must be, or
        another process trains in the workdir.
    """
    check_config(config)
    check_workdir(config, workdir)
    training = Run(config)
    main_process = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(sole_user(workdir))
            devices = [device.device_kind for device in training.mesh.devices.flat]
            write_run_info(workdir, config.to_dict(), devices)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir)))
        writer = Writer(
            workdir,
            start_step=checkpoints.latest_step() or 0,
            tensorboard=config.tensorboard,
            enabled=main_process,
        )
        stack.enter_context(contextlib.closing(writer))
        return loop.train(training, workdir, checkpoints, writer)
