"""
The listener for DNS over TLS (RFC 7858): a stream listener behind a TLS handshake.

Decides how long a handshake may take, and which responses are padded.  Everything else of a connection is decided as
for TCP: a connection counts from its first packet on, with its handshake done or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener, IProtocolFactory, IReactorTime
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.downstream.response_padding import padded, wants_padding
from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.tcp import TcpConnection
from dotproxy.downstream.tls_context import CurrentContext
from dotproxy.policy.client import Client, ClientMessage
from dotproxy.telemetry.counters import TLS, ListenerCounters

#: The route of a client whose response is to be padded.
PADDED: Final = object()

#: A handshake that takes longer, in seconds, is ended.
HANDSHAKE_TIMEOUT = 5.0


@implementer(IHandshakeListener)
class TlsConnection(TcpConnection):
    """
    One client's connection.

    Owns: the timer of its handshake.
    """

    kind = TLS

    def __init__(self, factory: Any) -> None:
        super().__init__(factory)
        self._handshake_timer: IDelayedCall | None = None
        self.counters: ListenerCounters | None = None

    def connectionMade(self) -> None:
        """
        A client connected; the handshake begins.
        """
        super().connectionMade()
        self._handshake_timer = self._factory.clock.callLater(HANDSHAKE_TIMEOUT, self._handshake_timed_out)

    def handshakeCompleted(self) -> None:
        """
        Queries may come.
        """
        self._handshake_ended("completed")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection is gone.
        """
        self._handshake_ended("failed")
        super().connectionLost(reason)

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Send answers, padded for those who asked for it.
        """
        if any(client.route is PADDED for _, client in answers):
            answers = [(padded(octets) if client.route is PADDED else octets, client) for octets, client in answers]
        super().send_answers(answers)

    def _with_client(self, queries: Sequence[bytes]) -> list[ClientMessage]:
        """
        Return queries with what finds their client again, and whether it wants padding.
        """
        client = self._client
        wanting = Client(client.host, client.port, PADDED)
        return [(octets, wanting if wants_padding(octets) else client) for octets in queries]

    def _handshake_timed_out(self) -> None:
        self._handshake_ended("timed_out")
        self.abort()

    def _handshake_ended(self, how: str) -> None:
        timer, self._handshake_timer = self._handshake_timer, None
        if timer is None:
            return
        if timer.active():
            timer.cancel()
        if self.counters is not None:
            self.counters.handshakes[how] += 1


class TlsTransport(TLSMemoryBIOProtocol):
    """
    Twisted's, without the wait for more to write: answers that are ready together come in one write already.
    """


class TlsConnectionFactory(ServerFactory):
    """
    What makes listeners for clients over TLS, handshakes not included, in the table of ``factory``: that has the
    clients over TCP, too, and counts all of them together.
    """

    noisy = False

    def __init__(self, factory: ListenerFactory, counters: ListenerCounters) -> None:
        self._listeners = factory
        self._counters = counters

    def buildProtocol(self, addr: IAddress | None) -> TlsConnection | None:
        """
        Take a client, or None if there is no room.
        """
        listener = self._listeners.build_connection(addr, TlsConnection)
        if listener is not None:
            listener.counters = self._counters
        return listener


class TlsListenerFactory(TLSMemoryBIOFactory):
    """
    Told by: Twisted.
    Tells: ``behind``, the factory of those that have a handshake before them.
    """

    protocol = TlsTransport

    def __init__(self, behind: IProtocolFactory, context: CurrentContext, clock: IReactorTime) -> None:
        super().__init__(context, isClient=False, wrappedFactory=behind, clock=clock)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Take a connection, or None if there is no room.
        """
        behind = self.wrappedFactory.buildProtocol(addr)
        return None if behind is None else self.protocol(self, behind)
