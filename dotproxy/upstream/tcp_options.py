"""
TCP options of connections to upstreams.

Decides when the kernel acknowledges octets at once, and after how long it gives a peer up.
"""

from __future__ import annotations

import socket

#: So many seconds after a handshake the session tickets of the server are acknowledged.
TICKET_DELAY = 0.002

#: Octets not acknowledged for so many milliseconds end a connection: its peer is gone.
USER_TIMEOUT = 10_000

# Linux has both options; other systems may not.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)


def acknowledge_now(handle: socket.socket) -> None:
    """
    Acknowledge at once what was received, until the kernel resets the option by itself.

    A server with Nagle on holds its next octets until the last ones are acknowledged.
    """
    if _QUICKACK is not None:
        handle.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def limit_unacknowledged(handle: socket.socket) -> None:
    """
    End the connection when octets are not acknowledged for ``USER_TIMEOUT`` (RFC 5482).
    """
    if _USER_TIMEOUT is not None:
        handle.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, USER_TIMEOUT)
