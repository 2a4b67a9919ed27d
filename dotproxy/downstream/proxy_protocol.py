"""
Listeners behind a balancer that tells the client's address by the PROXY protocol, version 2.

Decides what becomes of datagrams and connections of such a balancer: each datagram and each connection begins with a
header; without a valid one it is dropped, and counted.  Other peers' are handed on untouched, as they are without a
balancer: what they send is never taken for a header.

Before TLS the header is expected in the clear, as haproxy sends it, or as the first octets over TLS, as dnsdist does.

Whoever is told of a query by these listeners has the client's address; the response goes to the balancer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocolFactory,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.tls_context import CurrentContext
from dotproxy.downstream.tls_listener import TlsConnectionFactory, TlsListenerFactory
from dotproxy.downstream.udp import CookieFor, UdpListener
from dotproxy.downstream.udp_port import Datagram
from dotproxy.errors import WireError
from dotproxy.policy.client import Client
from dotproxy.telemetry.counters import ListenerCounters
from dotproxy.wire.proxy_header import ProxyHeader, parse_proxy_header

#: A connection whose header is not there after so many seconds is ended.
HEADER_TIMEOUT = 5.0

#: What a TLS handshake begins with (RFC 8446 §5.1); no PROXY header does.
_TLS_HANDSHAKE = 0x16

#: From a peer's IP address to whether it is a balancer that sends headers.
IsBalancer = Callable[[str], bool]


class ProxiedUdpListener(UdpListener):
    """
    A UDP listener for clients, some of which are behind balancers.
    """

    def __init__(
        self,
        factory: Any,
        clock: Any,
        cookie_for: CookieFor | None,
        is_balancer: IsBalancer,
        counters: ListenerCounters,
    ) -> None:
        super().__init__(factory, clock, cookie_for)
        self._is_balancer = is_balancer
        self._counters = counters

    def datagrams_received(self, batch: list[Datagram]) -> None:
        """
        Called by the port.
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
        Called by any other port there may be.
        """
        self.datagrams_received([(data, Client(addr[0], addr[1]))])

    def send_answers(self, answers: list[Datagram]) -> None:
        """
        Send each response to its client's balancer, or to its client, if that client may have it.
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
    A balancer's connection, over TCP or TLS: its header, and then the transport of what is behind that.

    Owns: the timer of the header, and its octets until it is whole.
    """

    factory: ProxiedConnectionFactory
    wrappedProtocol: Any
    transport: Any

    def __init__(self, factory: ProxiedConnectionFactory, peer: IAddress) -> None:
        super().__init__(factory, Protocol())
        self._client = peer
        self._octets = b""
        self._is_waiting = self._is_shaken = False
        self._timer: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        """
        A balancer connected.
        """
        directlyProvides(self, providedBy(transport))
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self._is_waiting = True
        self.factory.waiting += 1
        self._timer = self.factory.clock.callLater(HEADER_TIMEOUT, self._reject)

    def dataReceived(self, data: bytes) -> None:
        """
        Octets of the header, or after it.
        """
        if not self._is_waiting:
            if self.wrappedProtocol is not None:
                self.wrappedProtocol.dataReceived(data)
            return
        self._octets += data
        if self.factory.over_tls is not None and self._octets[0] == _TLS_HANDSHAKE:
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
        Called by TLS below this; what is behind the header is told when it is there.
        """
        self._is_shaken = True

    def getPeer(self) -> IAddress:
        """
        Return the client's address.
        """
        return self._client

    def readConnectionLost(self) -> None:
        """
        The client has asked all it will; called if what is behind the header wants to know.
        """
        self.wrappedProtocol.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """
        The client takes no more.
        """
        self.wrappedProtocol.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection is gone.
        """
        self._stop_waiting()
        super().connectionLost(reason)

    def stop_waiting_for_header(self) -> None:
        """
        End the connection, if its header has not come.
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
        behind: Any = factory.buildProtocol(self._client)
        if behind is None:  # there is no room
            self.transport.abortConnection()
            return
        self.wrappedProtocol = behind
        if IHalfCloseableProtocol.providedBy(behind):
            alsoProvides(self, IHalfCloseableProtocol)
        behind.makeConnection(self)
        if self._is_shaken and IHandshakeListener.providedBy(behind):
            behind.handshakeCompleted()
        if rest:
            behind.dataReceived(rest)

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
    Tells: ``behind``, the factory of those that serve clients, over ``transport``: ``tcp`` or ``tls``.

    ``over_tls`` takes connections that begin with a TLS handshake, and expects the header after it; None if there is no
    such thing.  ``waiting`` counts connections whose header has not come, of which there are no more than ``listeners``
    may have.
    """

    noisy = False

    def __init__(
        self,
        behind: IProtocolFactory,
        listeners: ListenerFactory,
        transport: str,
        is_balancer: IsBalancer,
        counters: ListenerCounters,
        over_tls: IProtocolFactory | None = None,
    ) -> None:
        super().__init__(behind)
        self.over_tls = over_tls
        self.clock = listeners.clock
        self.transport = transport
        self.counters = counters
        self.waiting = 0
        self._listeners = listeners
        self._is_balancer = is_balancer

    def buildProtocol(self, addr: Any) -> Any:
        """
        Take a connection.
        """
        if not self._is_balancer(addr.host):
            return self.wrappedFactory.buildProtocol(addr)
        return ProxiedConnection(self, addr) if self.waiting < self._listeners.max_connections else None

    def doStart(self) -> None:
        """
        A port is open.
        """
        super().doStart()
        if self.over_tls is not None:
            self.over_tls.doStart()

    def doStop(self) -> None:
        """
        A port is closed: nobody waits for headers any more.
        """
        super().doStop()
        if self.over_tls is not None:
            self.over_tls.doStop()

    def stopFactory(self) -> None:
        """
        The last port is closed.
        """
        for stream in tuple(self.protocols):
            stream.stop_waiting_for_header()


def proxied_tcp_factory(
    listeners: ListenerFactory, is_balancer: IsBalancer, counters: ListenerCounters
) -> ProxiedConnectionFactory:
    """
    Return what takes connections over TCP.
    """
    return ProxiedConnectionFactory(listeners, listeners, "tcp", is_balancer, counters)


def proxied_tls_factory(
    listeners: ListenerFactory, context: CurrentContext, is_balancer: IsBalancer, counters: ListenerCounters
) -> ProxiedConnectionFactory:
    """
    Return what takes connections over TLS, in either order.
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
    try:
        return parse_proxy_header(octets)
    except WireError:
        return None
