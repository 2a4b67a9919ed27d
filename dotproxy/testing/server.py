"""
A scripted DNS-over-TLS server, on a socket or in memory.

Decides nothing: responses come from a function that it is given; it records every query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test import iosim

from dotproxy.testing.certificates import Issued
from dotproxy.wire.framing import Deframer, frame

#: An answer in whose place a connection is closed.
HANG_UP = b"hang up"

#: From a query to its answer, both whole messages; None for silence, ``HANG_UP`` for the end of the connection.
ResponseBuilder = Callable[[bytes], bytes | None]


class DotServer(Factory):
    """
    The server.

    ``queries`` holds every message it was sent, ``connections`` the connections that stand.  Tests may
    replace ``answer`` and ``certificate`` at any time.
    """

    noisy = False

    def __init__(self, answer: ResponseBuilder, certificate: Issued) -> None:
        self.answer = answer
        self.certificate = certificate
        self.queries: list[bytes] = []
        self.connections: list[DotServerConnection] = []
        self.accepted = 0
        self._options: tuple[Issued, CertificateOptions] | None = None

    def buildProtocol(self, addr: object) -> DotServerConnection:
        """
        Take a connection.
        """
        self.accepted += 1
        return DotServerConnection(self)

    def over_tls(self, clock: Any) -> TLSMemoryBIOFactory:
        """
        Return this server behind TLS, with its present certificate.
        """
        if self._options is None or self._options[0] is not self.certificate:
            # Kept, since it holds the key of the session tickets: without it nothing could be resumed.
            self._options = (self.certificate, self.certificate.server_options())
        return TLSMemoryBIOFactory(self._options[1], False, self, clock=clock)

    async def listen(self, reactor: Any, host: str = "127.0.0.1", port: int = 0) -> IListeningPort:
        """
        Serve on a socket; return its port.
        """
        return cast(IListeningPort, reactor.listenTCP(port, self.over_tls(reactor), interface=host))

    def close_connections(self) -> None:
        """
        Close every connection, politely.
        """
        for connection in tuple(self.connections):
            connection.transport.loseConnection()

    def abort_connections(self) -> None:
        """
        Cut every connection.
        """
        for connection in tuple(self.connections):
            connection.transport.abortConnection()


class DotServerConnection(Protocol):
    """
    One connection of a ``DotServer``; ``queries`` are those that came over it.
    """

    transport: Any

    def __init__(self, server: DotServer) -> None:
        self._server = server
        self._deframer = Deframer()
        self.queries: list[bytes] = []

    def connectionMade(self) -> None:
        """
        A client connected.
        """
        self._server.connections.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Forget the connection.
        """
        self._server.connections.remove(self)

    def dataReceived(self, data: bytes) -> None:
        """
        Answer the queries that the octets complete.
        """
        for query in self._deframer.feed(data):
            self._server.queries.append(query)
            self.queries.append(query)
            reply = self._server.answer(query)
            if reply is HANG_UP:
                self.transport.loseConnection()
                return
            if reply is not None:
                self.send(reply)

    def send(self, message: bytes) -> None:
        """
        Send a message.
        """
        self.transport.write(frame(message))


class MemoryNetwork:
    """
    A network without sockets: whatever is dialled on ``reactor`` reaches a server when ``accept`` says so.

    ``reactor`` has TCP and time, both pretended; ``settle`` lets everything happen that can without time
    passing.
    """

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self._pumps: list[iosim.IOPump] = []
        self._taken = 0

    @property
    def dialled(self) -> list[tuple[str, int]]:
        """
        Every address dialled so far.
        """
        return [(client[0], client[1]) for client in self.reactor.tcpClients]

    def accept(self, server: DotServer) -> None:
        """
        Let the oldest dial that was not decided on reach ``server``, and settle.
        """
        self.accept_plain(server.over_tls(self.reactor))

    def accept_plain(self, factory: Any) -> None:
        """
        Let the oldest dial that was not decided on reach a server that may not speak TLS, and settle.
        """
        host, port, client_factory, _, _ = self._next_dial()
        kind = IPv6Address if ":" in host else IPv4Address
        client = client_factory.buildProtocol(kind("TCP", host, port))
        served = factory.buildProtocol(kind("TCP", host, 1))
        client_io = iosim.FakeTransport(client, False, peerAddress=kind("TCP", host, port))
        server_io = iosim.FakeTransport(served, True)
        self._pumps.append(iosim.connect(served, server_io, client, client_io, clock=self.reactor, greet=False))
        self.settle()

    def accept_all(self, server: DotServer) -> None:
        """
        Let every dial that was not decided on reach ``server``, those that follow from that included, and settle.
        """
        while self._taken < len(self.reactor.tcpClients):
            self.accept(server)

    def refuse(self, reason: Exception) -> None:
        """
        Fail the oldest dial that was not decided on.
        """
        client_factory = self._next_dial()[2]
        client_factory.clientConnectionFailed(None, Failure(reason))

    def settle(self) -> None:
        """
        Carry octets until none is under way.
        """
        busy = True
        while busy:
            self.reactor.advance(0)
            busy = any([pump.pump() for pump in self._pumps])  # noqa: C419 (each has to be pumped)

    def advance(self, seconds: float) -> None:
        """
        Let time pass, and settle.
        """
        self.reactor.advance(seconds)
        self.settle()

    def _next_dial(self) -> Any:
        self._taken += 1
        return self.reactor.tcpClients[self._taken - 1]
