"""The port that the page listens at."""

import socket

from hkdnet_jax.common.errors import UserError


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Args:
      host: name or address of this machine.
      port: 0 for one that is free.

    Raises:
      UserError: the port is in use or not allowed, or the host is not this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a part is too long
        detail = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} is no address ({detail}): give 127.0.0.1, or "
            "0.0.0.0 for every address of this machine."
        ) from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    # The port of a server that has just ended can be taken at once.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(
            f"Port {port} of {host} cannot be used ({error.strerror}): give another "
            "--port, or 0 for any that is free."
        ) from error
    return listening
