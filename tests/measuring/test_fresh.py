"""Calls in a process of their own: what comes back, and how they end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring.fresh import Skipped, call_fresh


def describe(value, *, other):
    settings = jax.config.jax_enable_compilation_cache, jax.device_count()
    return os.getpid(), value, other, settings


def end(how):
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "refused":
        raise UserError("no such thing.")
    if how == "skipped":
        raise Skipped("it is too large.")
    if how == "memory":
        raise MemoryError
    if how == "program":
        x = jnp.zeros(2**50, jnp.uint8)  # a petabyte
        x.block_until_ready()
    raise KeyError("a bug")


def hold_a_connection(port):
    with socket.create_connection(("127.0.0.1", port)):
        time.sleep(600)


def test_it_ends_with_its_caller():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(300)
        program = (
            "from hkdnet_jax.measuring.fresh import call_fresh; import test_fresh; "
            f"call_fresh(test_fresh.hold_a_connection, {server.getsockname()[1]})"
        )
        caller = subprocess.Popen(
            [sys.executable, "-c", program], cwd=Path(__file__).parent
        )
        connection, _ = server.accept()
    with connection:
        caller.kill()
        caller.wait()
        connection.settimeout(300)
        assert connection.recv(1) == b""  # the other end is closed


def test_a_process_of_its_own():
    pid, value, other, settings = call_fresh(describe, {"a": 1}, other=(2, 3))
    assert pid != os.getpid() and value == {"a": 1} and other == (2, 3)
    # Nothing comes from the disk; and one device, not conftest's four.
    assert settings == (False, 1)


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("refused", UserError, "^no such thing.$"),
        ("skipped", Skipped, "^it is too large.$"),
        ("memory", UserError, "not enough memory"),
        ("program", UserError, "program failed .*(RESOURCE_EXHAUSTED|[Mm]emory)"),
        ("killed", UserError, "killed.*memory"),
        ("bug", UserError, "exit code 1"),
    ],
)
def test_how_it_ends(how, kind, says, capfd):
    with pytest.raises(kind, match=says):
        call_fresh(end, how)
    # A bug is for its author to see; what a user can mend is one sentence.
    assert ("Traceback" in capfd.readouterr().err) == (how == "bug")
