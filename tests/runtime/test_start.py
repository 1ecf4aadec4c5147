"""The second start of a process: when, with what environment, and never twice."""

import os
import subprocess
import sys

import pytest

from hkdnet_jax.runtime import start

LINUX = sys.platform == "linux"


def test_the_environment_of_the_second_start():
    before = {"PATH": "/bin", "MALLOC_TRIM_THRESHOLD_": "7"}
    after = start.tuned(before, glibc=True)
    assert after == before | {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "HKDNET_TUNED": "1",
    }
    assert before == {"PATH": "/bin", "MALLOC_TRIM_THRESHOLD_": "7"}
    assert start.tuned(after, glibc=True) is None  # never a third time


@pytest.mark.parametrize(
    ("environment", "glibc"),
    [
        ({}, False),
        ({"HKDNET_TUNE": "0"}, True),
        ({"HKDNET_TUNED": "1"}, True),
        (dict.fromkeys(start.SETTINGS, "1"), True),
    ],
)
def test_where_nothing_happens(environment, glibc):
    assert start.tuned(environment, glibc) is None


@pytest.fixture
def replaced(monkeypatch):
    """What the process would have been replaced by."""
    calls = []
    monkeypatch.setattr(
        start, "restart", lambda argv, environment: calls.append((argv, environment))
    )
    for name in (*start.SETTINGS, start.SWITCH, start.MARK):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(start, "_uses_glibc", lambda: True)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "hkdnet_jax.main", "--x=1"])
    return calls


def test_the_command_line_stays(replaced):
    start.tune()
    ((argv, environment),) = replaced
    assert argv == ["python", "-m", "hkdnet_jax.main", "--x=1"]
    assert (
        environment["HKDNET_TUNED"] == "1" and environment["PATH"] == os.environ["PATH"]
    )


def test_the_switch(replaced, monkeypatch):
    monkeypatch.setenv("HKDNET_TUNE", "0")
    start.tune()
    assert replaced == []


def test_an_embedded_interpreter_is_left_alone(replaced, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    start.tune()
    assert replaced == []


def test_what_is_executed():
    calls = []
    start.restart(["py", "-m", "m", "a b"], {"K": "v"}, lambda *a: calls.append(a))
    assert calls == [(sys.executable, [sys.executable, "-m", "m", "a b"], {"K": "v"})]


def test_a_refusal_is_survived():
    def refuse(*args):
        raise OSError("not here")

    start.restart(["py"], {}, refuse)


@pytest.mark.skipif(sys.platform == "linux", reason="elsewhere than on Linux")
def test_other_systems_have_no_glibc():
    assert not start._uses_glibc()


@pytest.mark.skipif(not start._uses_glibc(), reason="needs glibc")
def test_a_process_starts_again_once_with_its_arguments():
    program = """
import os, sys
print("start", os.getpid(), sys.argv[1:], flush=True)
from hkdnet_jax.runtime import start
start.tune()
print(os.environ["GLIBC_TUNABLES"], "jax" in sys.modules)
"""
    kept = {k: v for k, v in os.environ.items() if k not in start.SETTINGS}
    kept = {k: v for k, v in kept.items() if k not in (start.MARK, start.SWITCH)}
    done = subprocess.run(
        [sys.executable, "-c", program, "a b", "c"],
        env=kept,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, last = done.stdout.splitlines()
    assert first == second and first.endswith("['a b', 'c']")
    assert last == "glibc.malloc.hugetlb=1 False"
