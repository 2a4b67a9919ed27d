"""
A TCP port that accepts a few connections at a time.

Decides how many, and what the kernel keeps for a client that does not read.  Twisted's own port accepts more each time
that more are waiting, in the end all there are: in a flood of connections everything else would wait for them.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.interfaces import IProtocolFactory

#: Connections accepted in one iteration of the reactor.
ACCEPTS: Final = 16

#: Octets that the kernel takes of a connection beyond those on their way.  Without a limit it takes megabytes, and
#: shows late whether a client reads.
_UNSENT: Final = 512 << 10


class TcpPort(tcp.Port):
    """
    A port on a socket that listens already, in non-blocking mode; it has a descriptor of its own.
    """

    _preexistingSocket: Any

    def __init__(self, listening: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        host, port = listening.getsockname()[:2]
        super().__init__(port, factory, interface=host, reactor=reactor)
        self._preexistingSocket = own = listening.dup()
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with suppress(OSError):
                # Connections that are accepted have it, too.
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)

    def doRead(self) -> None:
        """
        Accept what waits, but for what can wait a little longer.
        """
        self.numberAccepts = ACCEPTS
        super().doRead()
