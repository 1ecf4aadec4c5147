"""Calls a function in a new process, so that measurements do not affect each other.

The memory of the process starts at that of a fresh interpreter, and nothing has been
compiled in it yet.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax

from hkdnet_jax.common.errors import UserError


class Skipped(Exception):
    """This machine cannot measure a row; the sentence says why."""


def call_fresh(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function in a new process, in which jax's compilation cache is off.

    Args:
      function: a top-level function of a module, so that the process can import it.
      *args: picklable arguments.
      **kwargs: picklable arguments.

    Returns:
      The result of the function, which must be picklable.

    Raises:
      UserError: the function raised one, its program failed or ran out of memory, or
        the process died.
      Skipped: the function raised it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_run_and_send, args=(sender, function, args, kwargs), daemon=True
    )
    process.start()
    sender.close()  # in this process, so that the pipe ends with the new one
    try:
        error, result = receiver.recv()
    except EOFError:
        process.join()
        raise UserError(_reason_of(process.exitcode)) from None
    except BaseException:  # Ctrl-C
        process.kill()
        raise
    finally:
        process.join()
        receiver.close()
    if error:
        raise error(result)
    return result


def _run_and_send(
    sender: Connection, function: Callable[..., Any], args: tuple, kwargs: dict
) -> None:
    """Runs in the new process: sends (None, result) or (exception, sentence)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles it
    threading.Thread(target=_end_with_caller, daemon=True).start()
    # When memory runs out, Linux ends this process and not another.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        sender.send((None, function(*args, **kwargs)))
    except (UserError, Skipped) as error:
        sender.send((type(error), str(error)))
    except MemoryError:
        sender.send((UserError, "there is not enough memory."))
    except jax.errors.JaxRuntimeError as error:  # such as being out of memory
        reason = str(error).strip().splitlines()[0]
        sender.send((UserError, f"the program failed ({reason})."))


def _end_with_caller() -> None:
    """Ends this process when its caller ends, even if the caller is killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _reason_of(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "the process was killed, most likely because memory ran out."
    return f"the process ended with exit code {exit_code}; see its output above."
