"""Trains a teacher or a student.  Flags and dispatch only.

Example:

    python -m hkdnet_jax.main --config=configs/student_x3.py --workdir=runs/x3 \
        --config.data.roots=DATA/roadscene --config.teacher.dir=runs/teacher

Started again with the same workdir, a run goes on where its last checkpoint is.
One process uses all devices of its machine; for several machines see launch/README.md.
"""

import contextlib
import fcntl
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from data_pipelines.errors import UserError, exit_code
from hkdnet_jax import compile_cache, processes, train_loop
from hkdnet_jax.checkpoint import Checkpoints
from hkdnet_jax.command_line import parse_config
from hkdnet_jax.config_check import check_config
from hkdnet_jax.processes import SIGTERM_EXIT
from hkdnet_jax.trained import describe
from hkdnet_jax.writers import Writer, write_run_info


def check_workdir(config: ConfigDict, workdir: str | Path) -> None:
    """Raises UserError when `workdir` holds a run with another network."""
    file = Path(workdir) / "config.json"
    if Path(workdir).exists() and not Path(workdir).is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a folder.")
    if not file.exists():
        return
    try:
        old = describe(ConfigDict(json.loads(file.read_text())))
    except (AttributeError, KeyError, ValueError):
        raise UserError(
            f"{file} is not of a run of this program: choose another --workdir."
        ) from None
    new = describe(config)
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
    training = train_loop.Run(config)
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
        return train_loop.train(training, workdir, checkpoints, writer)


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    remains = "the same command goes on from the last checkpoint"
    return exit_code(lambda: _run(argv), interrupted=remains)


def _run(argv: list[str]) -> int:
    config, others = parse_config(
        argv,
        doc=__doc__,
        required={"workdir": "folder of the run, made if missing"},
        optional={
            "coordinator": "of several processes: HOST:PORT of process 0, or auto on a "
            "TPU slice and under Slurm",
            "processes": "how many there are (not with auto)",
            "process": "which of them this is, from 0 (not with auto)",
        },
    )
    workdir = others["workdir"]
    compile_cache.enable()
    processes.join(others["coordinator"], others["processes"], others["process"])
    complete = run(config, workdir)
    if jax.process_index() == 0:
        print(
            f"Done; the best weights are in {workdir}"
            if complete
            else f"Stopped and saved; the same command goes on: {workdir}"
        )
    return 0 if complete else SIGTERM_EXIT


if __name__ == "__main__":
    processes.end_with(main)
