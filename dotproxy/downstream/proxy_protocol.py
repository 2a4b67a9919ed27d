"""
Listeners for clients behind load balancers that send the PROXY protocol, version 2.

Decides what happens to datagrams and connections of a balancer: each begins with a header, which has the client's
address; without a valid one it is dropped and counted.  Datagrams and connections of other peers are passed on
unchanged: their octets are never read as a header.

On a TLS listener the header comes before the handshake, as from haproxy, or as the first octets over TLS, as from
dnsdist.  Queries have the client's address; their responses are sent to the balancer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from dotproxy.downstream.interfaces import CountingReceiver, StreamTransport
from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.tls_context import CurrentContext
from dotproxy.downstream.tls_listener import TlsConnectionFactory, TlsListenerFactory
from dotproxy.downstream.udp import CookieFor, UdpListener
from dotproxy.downstream.udp_port import Datagram
from dotproxy.errors import WireError
from dotproxy.policy.client import Client
from dotproxy.telemetry.counters import ListenerCounters
from dotproxy.wire.proxy_header import ProxyHeader, parse_proxy_header

#: A connection without a whole header after so many seconds is closed.
HEADER_TIMEOUT = 5.0

#: The first octet of a TLS handshake (RFC 8446 §5.1); no PROXY header begins with it.
_TLS_HANDSHAKE = b"\x16"

#: Returns whether the peer with an IP address is a balancer that sends headers.
IsBalancer = Callable[[str], bool]


class ProxiedUdpListener(UdpListener):
    """
    A UDP listener for clients of which some are behind balancers.
    """

    def __init__(
        self,
        factory: CountingReceiver,
        clock: IReactorTime | None,
        cookie_for: CookieFor | None,
        is_balancer: IsBalancer,
        counters: ListenerCounters,
    ) -> None:
        super().__init__(factory, clock, cookie_for)
        self._is_balancer = is_balancer
        self._counters = counters

    def datagrams_received(self, batch: list[Datagram]) -> None:
        """
        Hand queries to the receiver, with the addresses of clients behind balancers; called by the port.
        """
        passed: list[Datagram] = []
        for datagram in batch:
            octets, peer = datagram
            if not self._is_balancer(peer.host):
                passed.append(datagram)
            elif (header := _header_of(octets)) is None:
                self._counters.proxy_errors["udp"] += 1
            elif header.host:
                passed.append((octets[header.size :], Client(header.host, header.port, peer)))
            else:
                passed.append((octets[header.size :], peer))
        if passed:
            super().datagrams_received(passed)

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        """
        Hand one query to the receiver; called by ports that do not read batches.
        """
        host, port, *_ = addr
        self.datagrams_received([(data, Client(host, port))])

    def send_answers(self, answers: list[Datagram]) -> None:
        """
        Send responses to clients or their balancers, but for those that ``limit_responses`` leaves out.
        """
        if self.limit_responses is not None:
            answers = self.limit_responses(answers)
        if self.transport is not None:
            self.transport.write_batch(
                [
                    # The route of a client behind a balancer is the balancer, a client of the port.
                    (octets, client.route if isinstance(client.route, Client) else client)
                    for octets, client in answers
                ]
            )


@implementer(IHandshakeListener)
class ProxiedConnection(ProtocolWrapper):
    """
    A balancer's connection, over TCP or TLS: it reads the header, and then is the transport of the inner protocol.

    Owns: the timer of the header, and its octets until it is whole.
    """

    factory: ProxiedConnectionFactory
    transport: StreamTransport  # type: ignore[assignment]  # Twisted has ITransport, which lacks most of it

    def __init__(self, factory: ProxiedConnectionFactory, peer: IAddress) -> None:
        super().__init__(factory, Protocol())
        self._client = peer
        self._octets = b""
        self._is_waiting = self._is_handshake_done = False
        self._timer: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        """
        Wait for the header of a balancer that has connected.
        """
        directlyProvides(self, providedBy(transport))
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self._is_waiting = True
        self.factory.waiting += 1
        self._timer = self.factory.clock.callLater(HEADER_TIMEOUT, self._reject)

    def dataReceived(self, data: bytes) -> None:
        """
        Take octets of the header, or after it.
        """
        if not self._is_waiting:
            if self.wrappedProtocol is not None:
                self.wrappedProtocol.dataReceived(data)
            return
        self._octets += data
        if self.factory.over_tls is not None and self._octets.startswith(_TLS_HANDSHAKE):
            self._begin_tls(self.factory.over_tls)
            return
        try:
            header = parse_proxy_header(self._octets)
        except WireError:
            self._reject()
            return
        if header is not None:
            self._begin(header)

    def handshakeCompleted(self) -> None:
        """
        Note a TLS handshake below this; the inner protocol is told once the header is read.
        """
        self._is_handshake_done = True

    def getPeer(self) -> IAddress:
        """
        Return the address of the client, as the header has it.
        """
        return self._client

    def readConnectionLost(self) -> None:
        """
        Tell the inner protocol that the client sends nothing more.
        """
        cast(IHalfCloseableProtocol, self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        """
        Tell the inner protocol that the client takes nothing more.
        """
        cast(IHalfCloseableProtocol, self.wrappedProtocol).writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Stop the timer, and tell the inner protocol.
        """
        self._stop_waiting()
        super().connectionLost(reason)

    def stop_waiting_for_header(self) -> None:
        """
        Close the connection, if it has no whole header yet.
        """
        if self._is_waiting:
            self._stop_waiting()
            self.transport.abortConnection()

    def _begin(self, header: ProxyHeader) -> None:
        self._stop_waiting()
        rest, self._octets = self._octets[header.size :], b""
        if header.host:
            kind = IPv6Address if ":" in header.host else IPv4Address
            self._client = kind("TCP", header.host, header.port)
        self._connect_inner(self.factory.wrappedFactory, rest)

    def _begin_tls(self, over_tls: IProtocolFactory) -> None:
        self._stop_waiting()
        data, self._octets = self._octets, b""
        self._connect_inner(over_tls, data)

    def _connect_inner(self, factory: IProtocolFactory, rest: bytes) -> None:
        inner = factory.buildProtocol(self._client)
        if inner is None:  # there is no room for the connection
            self.transport.abortConnection()
            return
        self.wrappedProtocol = inner
        if IHalfCloseableProtocol.providedBy(inner):
            alsoProvides(self, IHalfCloseableProtocol)
        inner.makeConnection(cast(ITransport, self))
        if self._is_handshake_done and IHandshakeListener.providedBy(inner):
            inner.handshakeCompleted()
        if rest:
            inner.dataReceived(rest)

    def _reject(self) -> None:
        self._stop_waiting()
        self._octets = b""
        self.factory.counters.proxy_errors[self.factory.transport] += 1
        self.transport.abortConnection()

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self.factory.waiting -= 1
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class ProxiedConnectionFactory(WrappingFactory[ProxiedConnection]):
    """
    Told by: Twisted.
    Tells: ``inner``, the factory of protocols that serve clients.

    ``transport`` is ``tcp`` or ``tls``, for counters.  ``over_tls`` builds the protocol of connections that begin with
    a TLS handshake and have the header after it; None on a TCP listener.  ``waiting`` counts connections without a
    whole header, which are limited to the ``max_connections`` of ``listeners``.
    """

    noisy = False

    def __init__(
        self,
        inner: IProtocolFactory,
        listeners: ListenerFactory,
        transport: str,
        is_balancer: IsBalancer,
        counters: ListenerCounters,
        over_tls: IProtocolFactory | None = None,
    ) -> None:
        super().__init__(inner)
        self.over_tls = over_tls
        self.clock = listeners.clock
        self.transport = transport
        self.counters = counters
        self.waiting = 0
        self._listeners = listeners
        self._is_balancer = is_balancer

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]  # Twisted: always the wrapper
        """
        Return the protocol of a connection, or None if there is no room for it.
        """
        if addr is None or not self._is_balancer(getattr(addr, "host", "")):
            return cast(IProtocol | None, self.wrappedFactory.buildProtocol(addr))
        return ProxiedConnection(self, addr) if self.waiting < self._listeners.max_connections else None

    def doStart(self) -> None:
        """
        Note an open port.
        """
        super().doStart()
        if self.over_tls is not None:
            self.over_tls.doStart()

    def doStop(self) -> None:
        """
        Note a closed port.
        """
        super().doStop()
        if self.over_tls is not None:
            self.over_tls.doStop()

    def stopFactory(self) -> None:
        """
        Close connections without a whole header; called when the last port is closed.
        """
        for stream in tuple(self.protocols):
            stream.stop_waiting_for_header()


def proxied_tcp_factory(
    listeners: ListenerFactory, is_balancer: IsBalancer, counters: ListenerCounters
) -> ProxiedConnectionFactory:
    """
    Return the factory of a TCP listener.
    """
    return ProxiedConnectionFactory(listeners, listeners, "tcp", is_balancer, counters)


def proxied_tls_factory(
    listeners: ListenerFactory, context: CurrentContext, is_balancer: IsBalancer, counters: ListenerCounters
) -> ProxiedConnectionFactory:
    """
    Return the factory of a TLS listener: the header comes before the handshake or after it.
    """
    clients = TlsConnectionFactory(listeners, counters)
    clock = listeners.clock
    inside = TlsListenerFactory(
        ProxiedConnectionFactory(clients, listeners, "tls", is_balancer, counters), context, clock
    )
    return ProxiedConnectionFactory(
        TlsListenerFactory(clients, context, clock), listeners, "tls", is_balancer, counters, over_tls=inside
    )


def _header_of(octets: bytes) -> ProxyHeader | None:
    """
    Return the header of a datagram, or None if it has no valid one.
    """
    try:
        return parse_proxy_header(octets)
    except WireError:
        return None
