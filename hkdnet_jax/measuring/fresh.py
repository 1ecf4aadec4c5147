"""A function called in a process of its own, so that one row knows nothing of another.

Its memory starts at that of a fresh interpreter, and nothing is compiled yet.
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
    """A row that this machine cannot measure; the sentence says why."""


def call_fresh(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function in a new process, with jax's cache of programs switched off.

    Args:
      function: of a module, so that the process can import it.
      *args: picklable.
      **kwargs: picklable.

    Returns:
      What the function returns; picklable.

    Raises:
      UserError: the function raised one, its program failed or ran out of memory, or
        the process died.
      Skipped: the function raised it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_answer, args=(sender, function, args, kwargs), daemon=True
    )
    process.start()
    sender.close()  # here, so that the end of the process is the end of the pipe
    try:
        error, answer = receiver.recv()
    except EOFError:
        process.join()
        raise UserError(_last_words(process.exitcode)) from None
    except BaseException:  # Ctrl-C
        process.kill()
        raise
    finally:
        process.join()
        receiver.close()
    if error:
        raise error(answer)
    return answer


def _answer(
    sender: Connection, function: Callable[..., Any], args: tuple, kwargs: dict
) -> None:
    """Runs in the new process: sends (None, result) or (exception, sentence)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's to handle
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    # Where memory runs out, Linux ends this process and not another.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        sender.send((None, function(*args, **kwargs)))
    except (UserError, Skipped) as error:
        sender.send((type(error), str(error)))
    except MemoryError:
        sender.send((UserError, "the memory does not suffice."))
    except jax.errors.JaxRuntimeError as error:  # among them: out of memory
        reason = str(error).strip().splitlines()[0]
        sender.send((UserError, f"the program failed ({reason})."))


def _end_with_the_caller() -> None:
    """Else a killed command would leave a process that measures for nobody."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _last_words(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "the process was killed, most likely since the memory did not suffice."
    return f"the process ended with exit code {exit_code}; its reason stands above."
