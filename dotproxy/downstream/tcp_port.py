"""
A TCP port that accepts a few connections at a time.

Decides how many, and how many octets the kernel buffers for a client that does not read.  Twisted's own port accepts
more each time that more are waiting, in the end all of them, so that a flood of connections delays everything else.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.interfaces import IProtocolFactory

#: Connections accepted in one iteration of the reactor.
ACCEPTS: Final = 16

#: TCP_NOTSENT_LOWAT: octets that the kernel buffers of a connection beyond those in flight.  Without it, it takes
#: megabytes, and it shows late that a client does not read.
_NOT_SENT: Final = 512 << 10


class TcpPort(tcp.Port):
    """
    A port on a listening, non-blocking socket, which it duplicates.
    """

    _preexistingSocket: Any

    def __init__(self, listening: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        host, port = listening.getsockname()[:2]
        super().__init__(port, factory, interface=host, reactor=reactor)
        self._preexistingSocket = own = listening.dup()
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with suppress(OSError):
                # Accepted connections inherit it.
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOT_SENT)

    def doRead(self) -> None:
        """
        Accept up to ``ACCEPTS`` connections.
        """
        self.numberAccepts = ACCEPTS
        super().doRead()
