"""Who makes batches ahead of their use: threads here, or other processes."""

import multiprocessing
import os
import signal
import threading

import grain
from absl import flags

from hkdnet_jax.common.errors import UserError

_PER_PROCESS = 2  # batches that wait in each process
# Not by shared memory, which a run that is killed would leave behind, and of which a
# container has 64 MB.
_BY_PIPE = grain.experimental.DatasetOptions(min_shm_size=2**62)


def in_threads(batches: grain.MapDataset, threads: int) -> grain.IterDataset:
    """Lets threads of this process make batches.

    Args:
      batches: the batches.
      threads: number of threads, each of which makes one batch; 0: one for each core, 8
        at most.  As many batches may wait.

    Returns:
      An iterable, whose iterators have `get_state` and `set_state`; the state is
      ``{"next_index": number of the next batch}``.
    """
    threads = threads or min(8, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return batches.to_iter_dataset(options)


class FromProcesses:
    """An iterator over batches that several processes make in turn.

    The state is that of `in_threads`.  Grain's own state for processes would tie a
    checkpoint to their number.
    """

    def __init__(self, batches: grain.MapDataset, threads: int, processes: int):
        """Starts nothing yet.

        Args:
          batches: the batches; each process gets a copy.
          threads: number of threads in each process; see `in_threads`.
          processes: number of processes.
        """
        self._batches, self._threads, self._processes = batches, threads, processes
        self._next, self._running = 0, None

    def __iter__(self) -> "FromProcesses":
        """The iterator itself."""
        return self

    def __next__(self) -> dict:
        """The next batch.

        Raises:
          UserError: a process ended, or its batch cannot be made.
        """
        if self._running is None:
            if not flags.FLAGS.is_parsed():  # grain asks for one of its own
                flags.FLAGS.mark_as_parsed()
            rest = self._batches.slice(slice(self._next, None))
            options = grain.MultiprocessingOptions(
                num_workers=self._processes, per_worker_buffer_size=_PER_PROCESS
            )
            ahead = grain.experimental.WithOptionsIterDataset(
                in_threads(rest, self._threads), _BY_PIPE
            )
            self._running = iter(ahead.mp_prefetch(options, worker_init_fn=_begin))
        try:
            batch = next(self._running)
        except RuntimeError as error:
            raise UserError(
                f"A process that makes batches ended ({str(error).rstrip('.')}): start "
                "the run again, which resumes it, and lower config.data.processes or "
                "config.data.cache_gib if memory ran out."
            ) from error
        self._next += 1
        return batch

    def get_state(self) -> dict:
        """The number of the next batch, as JSON can hold it."""
        return {"next_index": self._next}

    def set_state(self, state: dict) -> None:
        """Goes on with the batch that `get_state` named."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """Ends the processes; the next batch would start them again."""
        if self._running is not None:
            self._running.close()
            self._running = None


def _begin(number: int, count: int) -> None:
    """Lets a process live as long as the run that started it, which calls it so."""
    # Ctrl-C, and SIGTERM of a job's scheduler, reach every process of a run; it still
    # needs batches until it has saved.
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.SIG_IGN)
    threading.Thread(target=_end_with_run, daemon=True).start()


def _end_with_run() -> None:
    """Ends this process when the run ends, even if that is killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
