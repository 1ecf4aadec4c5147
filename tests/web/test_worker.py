"""One piece of work after another, and what a request waits for."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.web.worker import Worker


@pytest.fixture
def worker():
    made = Worker(seconds=30)
    yield made
    made.close()


def test_the_result_and_what_is_shown(worker):
    shown, seen = [], threading.Event()

    def show(text, steps):
        shown.append((text, steps))
        if text.startswith("fusing"):
            seen.set()

    def work(stage):
        stage("fusing")
        assert seen.wait(20)
        return 7

    assert worker.do(work, show) == 7
    assert ("fusing, 0 s", 1) in [(text[:-3] + "0 s", n) for text, n in shown]


def test_an_error_of_the_work_is_raised(worker):
    def work(stage):
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        worker.do(work, lambda text, steps: None)


def test_one_at_a_time_in_their_order(worker):
    running, most, order = [], [], []

    def work(number):
        def do(stage):
            running.append(number)
            most.append(len(running))
            time.sleep(0.01)
            order.append(number)
            running.remove(number)
            return number

        return do

    with ThreadPoolExecutor(20) as pool:
        jobs = [
            pool.submit(worker.do, work(n), lambda text, steps: None) for n in range(20)
        ]
        assert [job.result() for job in jobs] == list(range(20))
    assert set(most) == {1} and sorted(order) == list(range(20))


def test_a_request_whose_time_is_up_is_answered_and_the_next_one_waits():
    worker, free = Worker(seconds=0.3), threading.Event()
    try:
        with pytest.raises(UserError, match=r"more than the 0\.3 seconds"):
            worker.do(lambda stage: free.wait(30), lambda text, steps: None)
        waiting = []
        with ThreadPoolExecutor(1) as pool:
            # Its time starts with its work, not with its waiting.
            later = pool.submit(
                worker.do, lambda stage: 5, lambda *told: waiting.append(told)
            )
            time.sleep(0.8)
            assert not later.done()
            free.set()
            assert later.result(30) == 5
        assert waiting[0] == ("waiting for earlier pairs", 0)
    finally:
        free.set()
        worker.close()
