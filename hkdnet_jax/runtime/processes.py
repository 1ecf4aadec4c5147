"""Several processes as one run: how they join, and how they stop at the same step."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from hkdnet_jax.common.errors import UserError

AUTO = "auto"
SIGTERM_EXIT = 143  # 128 + SIGTERM, as a shell reports a terminated process
LOST_EXIT = 75  # EX_TEMPFAIL of sysexits.h: the same command may well succeed
_JOIN_TIMEOUT = 300  # seconds to wait until all processes have joined


def join(coordinator: str, count: str, index: str, lost_after: int) -> None:
    """Makes this process one of several; must be called before any computation.

    From then on, jax ends this process if another is lost.

    Args:
      coordinator: HOST:PORT on the host of process 0; "auto" if the cluster (a TPU
        slice, Slurm, Open MPI) tells jax all three values; empty for a single process.
      count: the number of processes.
      index: the number of this process, from 0.
      lost_after: seconds of silence after which a process counts as lost.

    Raises:
      UserError: an argument is missing or invalid, there is no such cluster, or the
        process cannot join.
    """
    if not coordinator:
        if count or index:
            raise UserError("--processes and --process need --coordinator=HOST:PORT.")
        return
    # This service receives SIGTERM, see `Stop`.
    jax.config.update("jax_enable_preemption_service", True)
    if coordinator == AUTO:
        _initialize_by_cluster(lost_after)
    else:
        _initialize(coordinator, count, index, lost_after)
    _connect()


def _initialize_by_cluster(lost_after: int) -> None:
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=lost_after)
    except ValueError as error:
        raise UserError(
            f"--coordinator={AUTO} finds no TPU slice, Slurm or Open MPI job here "
            f"({error}): give --coordinator=HOST:PORT --processes=N --process=I."
        ) from error


def _initialize(coordinator: str, count: str, index: str, lost_after: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={coordinator} is neither HOST:PORT nor {AUTO}.")
    if not count.isdigit() or not index.isdigit() or int(index) >= int(count):
        raise UserError(
            f"--processes={count} --process={index}: give the number of processes, and "
            "which of them this is, from 0."
        )
    # jax aborts a process that waits in vain, so the wait is announced beforehand.
    print(
        f"Process {index} of {count} is waiting for the others at {coordinator}, for "
        f"at most {_JOIN_TIMEOUT} s.",
        file=sys.stderr,
    )
    try:
        jax.distributed.initialize(
            coordinator,
            int(count),
            int(index),
            initialization_timeout=_JOIN_TIMEOUT,
            heartbeat_timeout_seconds=lost_after,
        )
    except RuntimeError as error:  # the port is taken, for instance
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Process {index} of {count} cannot join at {coordinator} ({reason}): give "
            "all processes the same free port on the host of process 0."
        ) from error


def _connect() -> None:
    """Runs a first computation of all processes while all of them are ready.

    CPUs connect at the first joint computation and give up if a process is 30 s late,
    as it may be if it has to compile something first.
    """
    multihost_utils.sync_global_devices("joined")


def end_with(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends this process with its exit code.

    When Python exits, jax waits up to five minutes for all processes to exit.  After a
    failure that is too long, because the others may be waiting for this process in a
    computation.
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


class Watch:
    """Ends this process if a run of several processes makes no progress.

    A process that hangs or is very slow keeps sending signs of life, and the others
    would wait for it in a computation, where no exception can reach them.
    """

    def __init__(self, seconds: float):
        """Starts to watch, if there are several processes.

        Args:
          seconds: the longest time between two calls of `progress`.
        """
        self._seconds = seconds
        self._progressed = threading.Event()
        self._ended = False
        if jax.process_count() > 1:
            threading.Thread(target=self._look, daemon=True).start()

    def progress(self) -> None:
        """Says that this process has got further."""
        self._progressed.set()

    def end(self) -> None:
        """Ends the watch."""
        self._ended = True
        self._progressed.set()

    def _look(self) -> None:
        while self._progressed.wait(self._seconds):
            self._progressed.clear()
            if self._ended:
                return
        print(
            f"error: Process {jax.process_index()} of {jax.process_count()} made no "
            f"progress for {self._seconds:g} s, because another one hangs or is slow, "
            "or the storage or the network does not answer: start all of them again, "
            "which continues from the last checkpoint, or raise config.lost_after if "
            "this was only slow.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST_EXIT)


class Stop:
    """Records SIGTERM, so that the training loop can save before it ends.

    In a run of several processes any of them may receive the signal; jax's preemption
    service tells all of them at the same call of `asked`.
    """

    def __init__(self, lost_after: float):
        """Installs a signal handler until `restore`, if there is only one process.

        Args:
          lost_after: seconds without a call of `asked` after which one of several
            processes ends itself (`Watch`).
        """
        self._received = False
        self._watch = Watch(lost_after)
        self._multiprocess = jax.process_count() > 1
        self._calls = 0
        if not self._multiprocess:
            self._previous = signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_) -> None:
        self._received = True

    def asked(self) -> bool:
        """Returns whether to stop now; all processes must call it equally often.

        Once true, it stays true.
        """
        self._watch.progress()
        if self._multiprocess and not self._received:
            self._calls += 1
            self._received = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._received

    def restore(self) -> None:
        """Restores the previous signal handler, and ends the watch."""
        self._watch.end()
        if not self._multiprocess:
            signal.signal(signal.SIGTERM, self._previous)
