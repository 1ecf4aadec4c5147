"""The watch over runs of several processes, without other processes."""

import threading

import jax
import pytest

from hkdnet_jax.runtime import processes


class Signs:
    """An event in whose place signs of progress come, or fail to come, in time."""

    def __init__(self, *came):
        self.came, self.waited = list(came), []

    def wait(self, seconds):
        self.waited.append(seconds)
        return self.came.pop(0)

    def clear(self):
        """They are counted one by one anyway."""


@pytest.fixture
def exits(monkeypatch):
    """The codes that the process would have ended with."""
    codes = []
    monkeypatch.setattr(processes.os, "_exit", codes.append)
    return codes


def test_without_progress_the_process_ends_and_says_why(exits, capsys):
    watch = processes.Watch(45)
    watch._progressed = Signs(True, True, False)
    watch._look()
    assert exits == [processes.LOST_EXIT] == [75]
    assert watch._progressed.waited == [45, 45, 45]
    (line,) = capsys.readouterr().err.splitlines()
    assert "Process 0 of 1 made no progress for 45 s" in line
    assert "config.lost_after" in line and "last checkpoint" in line


def test_a_watch_that_has_ended_ends_nothing(exits, capsys):
    watch = processes.Watch(45)
    watch._progressed = Signs(True, True)
    watch._ended = True
    watch._look()
    assert not exits and not capsys.readouterr().err


def test_only_several_processes_are_watched(monkeypatch):
    before = threading.active_count()
    processes.Watch(0.001)
    assert threading.active_count() == before
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    watch = processes.Watch(60)
    assert threading.active_count() == before + 1
    watch.end()
    for thread in threading.enumerate():
        if thread.daemon and thread._target == watch._look:
            thread.join(30)
            assert not thread.is_alive()


def test_every_question_whether_to_stop_is_progress():
    stop, seen = processes.Stop(60), []
    try:
        stop._watch.progress = lambda: seen.append(1)
        assert [stop.asked() for _ in range(3)] == [False] * 3
        assert len(seen) == 3
    finally:
        stop.restore()
    assert stop._watch._ended


def test_jax_is_told_when_a_process_counts_as_lost(monkeypatch):
    told = []
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *args, **kwargs: told.append(kwargs)
    )
    monkeypatch.setattr(processes, "_connect", lambda: None)
    processes.join("auto", "", "", 77)
    processes.join("localhost:1", "2", "0", 78)
    assert [kwargs["heartbeat_timeout_seconds"] for kwargs in told] == [77, 78]
