"""Several processes as one run: how they join, and how they stop at the same step."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from hkdnet_jax.common.errors import UserError

AUTO = "auto"
SIGTERM_EXIT = 143  # 128 + SIGTERM, what a shell reports for a terminated process
_PATIENCE = 300  # seconds until all processes have joined


def join(coordinator: str, count: str, index: str) -> None:
    """Makes this process one of several; to be called before any computation.

    Args:
      coordinator: HOST:PORT on the host of process 0; "auto" where the cluster (a TPU
        slice, Slurm, Open MPI) tells jax all three; empty: one process.
      count: how many processes there are.
      index: of this process, from 0.

    Raises:
      UserError: an argument is missing or senseless, or there is no such cluster.
    """
    if not coordinator:
        if count or index:
            raise UserError("--processes and --process need --coordinator=HOST:PORT.")
        return
    # It hears SIGTERM, see `Stop`.
    jax.config.update("jax_enable_preemption_service", True)
    if coordinator == AUTO:
        _initialize_by_cluster()
    else:
        _initialize(coordinator, count, index)
    _connect()


def _initialize_by_cluster() -> None:
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise UserError(
            f"--coordinator={AUTO} finds no TPU slice, Slurm or Open MPI job here "
            f"({error}): give --coordinator=HOST:PORT --processes=N --process=I."
        ) from error


def _initialize(coordinator: str, count: str, index: str) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={coordinator} is neither HOST:PORT nor {AUTO}.")
    if not count.isdigit() or not index.isdigit() or int(index) >= int(count):
        raise UserError(
            f"--processes={count} --process={index}: give the number of processes, and "
            "which of them this is, from 0."
        )
    # jax ends a process that waits in vain with an abort, so say it before.
    print(
        f"Process {index} of {count} waits for the others at {coordinator}, at most "
        f"{_PATIENCE} s.",
        file=sys.stderr,
    )
    try:
        jax.distributed.initialize(
            coordinator, int(count), int(index), initialization_timeout=_PATIENCE
        )
    except RuntimeError as error:  # the port is taken, for instance
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Process {index} of {count} cannot join at {coordinator} ({reason}): give "
            "a free port of process 0's host, the same to all."
        ) from error


def _connect() -> None:
    """Has all processes compute something together, while they all are here.

    CPUs connect at the first such computation, and give up when a process is 30 s late;
    it may be later than that when it has to compile before.
    """
    multihost_utils.sync_global_devices("joined")


def end_with(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends this process with its exit code.

    When Python ends, jax waits for all processes to end, five minutes long.  After a
    failure that is too late: the others may wait for this one in a computation.
    """
    code = 1
    try:
        code = main()
    except Exception:
        traceback.print_exc()
    if code not in (0, SIGTERM_EXIT) and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Stop:
    """Notes SIGTERM, so that the loop can save before it ends.

    Of several processes any may get the signal; jax's preemption service has all of
    them learn of it at the same call of `asked`.
    """

    def __init__(self):
        """In a run of one process, takes the signal's handler over until `restore`."""
        self._noted = False
        self._several = jax.process_count() > 1
        self._calls = 0
        if not self._several:
            self._previous = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_) -> None:
        self._noted = True

    def asked(self) -> bool:
        """Whether to stop now: to be called equally often by all processes.

        Once it was true it stays so.
        """
        if self._several and not self._noted:
            self._calls += 1
            self._noted = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._noted

    def restore(self) -> None:
        """Puts the handler of before back."""
        if not self._several:
            signal.signal(signal.SIGTERM, self._previous)
