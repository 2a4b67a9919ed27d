"""
The listener for DNS over TLS (RFC 7858): a TCP connection of a client behind a TLS handshake.

Decides how long a handshake may take, and which responses are padded.  Everything else is as for TCP: a connection is
in the table of connections from its first packet on, whether its handshake is done or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

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

#: Seconds after which a handshake that is not done is aborted.
HANDSHAKE_TIMEOUT = 5.0


@implementer(IHandshakeListener)
class TlsConnection(TcpConnection):
    """
    A client's connection over TLS.

    Owns: the timer of its handshake.
    """

    kind = TLS

    def __init__(self, factory: ListenerFactory) -> None:
        super().__init__(factory)
        self._handshake_timer: IDelayedCall | None = None
        self.counters: ListenerCounters | None = None

    def connectionMade(self) -> None:
        """
        Begin to serve a client, whose handshake begins.
        """
        super().connectionMade()
        self._handshake_timer = self._factory.clock.callLater(HANDSHAKE_TIMEOUT, self._handshake_timed_out)

    def handshakeCompleted(self) -> None:
        """
        Count the handshake, and stop its timer.
        """
        self._handshake_ended("completed")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Forget the connection; a handshake that is not done has failed.
        """
        self._handshake_ended("failed")
        super().connectionLost(reason)

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Send responses, padded where the query has a padding option.
        """
        if any(client.route is PADDED for _, client in answers):
            answers = [(padded(octets) if client.route is PADDED else octets, client) for octets, client in answers]
        super().send_answers(answers)

    def _with_client(self, queries: Sequence[bytes]) -> list[ClientMessage]:
        """
        Return queries, each with the client its response goes to; the client's route says whether that is padded.
        """
        client = self._client
        with_padding = Client(client.host, client.port, PADDED)
        return [(octets, with_padding if wants_padding(octets) else client) for octets in queries]

    def _handshake_timed_out(self) -> None:
        self._handshake_ended("timed_out")
        self.abort()

    def _handshake_ended(self, outcome: str) -> None:
        timer, self._handshake_timer = self._handshake_timer, None
        if timer is None:
            return
        if timer.active():
            timer.cancel()
        if self.counters is not None:
            self.counters.handshakes[outcome] += 1


class TlsTransport(TLSMemoryBIOProtocol):
    """
    Twisted's TLS protocol, without its buffer of small writes: responses that are ready together are one write already.
    """


class TlsConnectionFactory(ServerFactory):
    """
    The factory of clients' connections over TLS, without the handshake.

    They are in the table of ``factory``, together with connections over TCP.
    """

    noisy = False

    def __init__(self, factory: ListenerFactory, counters: ListenerCounters) -> None:
        self._listeners = factory
        self._counters = counters

    def buildProtocol(self, addr: IAddress | None) -> TlsConnection | None:
        """
        Return a connection for a client, or None if there is no room for it.
        """
        listener = self._listeners.build_connection(addr, TlsConnection)
        if listener is not None:
            listener.counters = self._counters
        return listener


class TlsListenerFactory(TLSMemoryBIOFactory):
    """
    Told by: Twisted.
    Tells: ``inner``, the factory of protocols behind the handshake.
    """

    protocol = TlsTransport

    def __init__(self, inner: IProtocolFactory, context: CurrentContext, clock: IReactorTime) -> None:
        super().__init__(context, isClient=False, wrappedFactory=inner, clock=clock)

    def buildProtocol(self, addr: IAddress | None) -> TlsTransport | None:  # type: ignore[override]  # Twisted: never None
        """
        Return the TLS protocol of a connection, or None if there is no room for it.
        """
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)
