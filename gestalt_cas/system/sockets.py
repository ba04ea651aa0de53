"""Whether somebody listens at an address."""

from __future__ import annotations

import socket

ANSWER_SECONDS = 2.0
"""How long an answer may take; a listener that is too busy to take a connection in time is alive all the same."""


def answers(address: str | tuple[str, int]) -> bool:
    """Whether a connection is taken at a unix socket's path, or at a host and port."""
    try:
        _connected(address).close()
    except (TimeoutError, BlockingIOError):
        return True
    except OSError:
        return False
    return True


def _connected(address: str | tuple[str, int]) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, ANSWER_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
