"""One thread that does the work of all requests, one pair after another."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import TypeVar

from hkdnet_jax.common.errors import UserError

_Result = TypeVar("_Result")
Stage = Callable[[str], None]  # is told what is being done now

_LOOK_SECONDS = 0.2


class Worker:
    """Does one piece of work at a time, in the order in which requests come.

    A program that runs on a device cannot be stopped. So a request whose time is up
    gets its answer, and its work ends unseen before the next one begins.
    """

    def __init__(self, seconds: float):
        """Starts the thread.

        Args:
          seconds: the longest that a request waits for its work once that has begun.
        """
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fusing")

    def do(
        self, work: Callable[[Stage], _Result], show: Callable[[str, int], None]
    ) -> _Result:
        """Has a piece of work done, and waits for its result.

        Args:
          work: gets a function that it tells what it is doing.
          show: is called several times a second with what is being done, and the
            number of things that were done before.

        Raises:
          UserError: the time was up; whatever else the work raises.
        """
        begun: list[float] = []
        stages: list[str] = []

        def run() -> _Result:
            begun.append(time.monotonic())
            stages.append("reading")
            return work(stages.append)

        future = self._pool.submit(run)
        while True:
            seconds = time.monotonic() - begun[0] if begun else 0
            if seconds > self._seconds and not future.done():
                raise UserError(
                    f"The pair takes more than the {self._seconds:g} seconds that this "
                    "page has for one: make it smaller, or choose a smaller scale."
                )
            if stages:
                show(f"{stages[-1]}, {seconds:.0f} s", len(stages) - 1)
            else:
                show("waiting for earlier pairs", 0)
            try:
                return future.result(_LOOK_SECONDS)
            except NotYet:
                if future.done():  # the work itself raised a TimeoutError
                    raise

    def close(self) -> None:
        """Ends the thread; what waits is not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
