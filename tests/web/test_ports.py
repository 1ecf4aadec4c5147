"""The port that the page listens at, and what is said if it cannot."""

import socket

import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.web.ports import bound


def test_a_free_port_is_found():
    with bound("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1" and port > 0
        with socket.create_connection((host, port), timeout=10):
            pass
    with bound("127.0.0.1", port):  # at once, after the page has ended
        pass


def test_a_port_in_use():
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        said = f"Port {port} of 127\\.0\\.0\\.1 cannot be used .*: give another --port"
        with pytest.raises(UserError, match=said):
            bound("127.0.0.1", port)


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "1.2.3.4.5", "a..b", "x" * 80]
)
def test_a_host_that_is_none(host):
    with pytest.raises(UserError, match=f"--host {host} is no address"):
        bound(host, 0)


def test_an_address_of_another_machine():
    with pytest.raises(UserError, match=r"Port 0 of 192\.0\.2\.1 cannot be used"):
        bound("192.0.2.1", 0)
