"""
Clients behind balancers.
"""

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import dns.edns
import dns.message
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.names.client import Resolver
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.proxy_protocol import (
    HEADER_TIMEOUT,
    ProxiedConnection,
    ProxiedUdpListener,
    proxied_tcp_factory,
    proxied_tls_factory,
)
from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.tcp import TcpConnection
from dotproxy.downstream.tls_context import CurrentContext, ServerTls
from dotproxy.policy.access import AccessList
from dotproxy.policy.client import Client
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.server_cookies import ServerCookies
from dotproxy.policy.share_settings import ShareSettings
from dotproxy.telemetry.counters import TCP, TLS, ListenerCounters
from dotproxy.testing.certificates import Authority
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import parse_query
from tests.downstream.tls_client import TlsClient, Transport
from tests.wire.test_proxy_header import header

BALANCER, OTHER = "10.0.0.1", "192.0.2.99"
QUERY = dns.message.make_query("www.example.", "A").to_wire()


class QueryReceiver:
    """
    A forwarder in whose place a test answers.
    """

    def __init__(self) -> None:
        self.received: list[tuple[Any, bytes, Any]] = []

    def handle_batch(self, listener: Any, batch: Iterable[tuple[bytes, Any]]) -> int:
        """
        Called by the listener.
        """
        self.received += [(listener, octets, client) for octets, client in batch]
        return 0

    @property
    def clients(self) -> list[tuple[str, int]]:
        """
        Who asked, by address and port.
        """
        return [(client.host, client.port) for _, _, client in self.received]

    def answer(self) -> None:
        """
        Send everything back.
        """
        received, self.received = self.received, []
        for listener, octets, client in received:
            listener.send_answers([(octets, client)])


class Port:
    """
    A UDP port.
    """

    def __init__(self) -> None:
        self.written: list[tuple[bytes, Any]] = []

    def write_batch(self, batch: list[tuple[bytes, Any]]) -> None:
        """
        Called by the listener.
        """
        self.written += batch


class ProxiedCase(SynchronousTestCase):
    """
    Listeners that one balancer talks to.
    """

    def setUp(self) -> None:
        """
        Nobody talks yet.
        """
        self.clock = Clock()
        self.receiver = QueryReceiver()
        self.counters = ListenerCounters()
        self.is_balancer = AccessList([ip_network("10.0.0.0/8")]).allows
        self.listeners = ListenerFactory(
            self.receiver,
            Resolver(servers=[("127.0.0.1", 1)], reactor=self.clock),
            clock=self.clock,
            now=self.clock.seconds,
            idle_timeout=10.0,
            max_connections=2,
            max_outstanding=16,
            share_of=lambda host: ClientShares(ShareSettings(lambda host: True, max_in_flight=100)).share_of(host, 0.0),
        )


class DatagramTests(ProxiedCase):
    """
    Over UDP.
    """

    def setUp(self) -> None:
        """
        A listener on a port.
        """
        super().setUp()
        cookies = ServerCookies(b"secret").option_for
        self.listener = ProxiedUdpListener(self.listeners, self.clock, cookies, self.is_balancer, self.counters)
        self.listener.transport = self.port = Port()

    def test_query_has_the_clients_address_and_the_response_goes_to_the_balancer(self) -> None:
        """
        The header is not forwarded.
        """
        first, second = Client(BALANCER, 1000, "where it came to"), Client(BALANCER, 1001)
        self.listener.datagrams_received(
            [(header("192.0.2.7", 4711) + QUERY, first), (header("2001:db8::7", 4712, tlvs=b"\4\0\1x") + QUERY, second)]
        )
        self.assertEqual([("192.0.2.7", 4711), ("2001:db8::7", 4712)], self.receiver.clients)
        self.assertEqual([QUERY, QUERY], [octets for _, octets, _ in self.receiver.received])
        self.receiver.answer()
        self.assertEqual([(QUERY, first), (QUERY, second)], self.port.written)

    def test_local_header_is_a_query_of_the_balancer(self) -> None:
        """
        LOCAL is a query of the balancer's own.
        """
        self.listener.datagramReceived(header(version=0x20) + QUERY, (BALANCER, 1000))
        self.assertEqual([(BALANCER, 1000)], self.receiver.clients)
        self.receiver.answer()
        self.assertEqual([(QUERY, BALANCER)], [(octets, client.host) for octets, client in self.port.written])

    def test_datagram_of_a_balancer_without_header_is_dropped_and_counted(self) -> None:
        """
        A datagram without a whole header has no client.
        """
        for octets in (QUERY, b"", header()[:-1], header(version=0x31) + QUERY, b"PROXY UNKNOWN\r\n" + QUERY):
            self.listener.datagrams_received([(octets, Client(BALANCER, 1000))])
        self.assertEqual([], self.receiver.received)
        self.assertEqual({"udp": 5}, dict(self.counters.proxy_errors))

    def test_header_of_another_client_is_not_parsed(self) -> None:
        """
        Datagrams of other clients are handed on unchanged: they cannot claim another address.
        """
        batch = [(header() + QUERY, Client(OTHER, 1000)), (QUERY, Client(OTHER, 1001))]
        self.listener.datagrams_received(batch)
        self.assertEqual(batch, [(octets, client) for _, octets, client in self.receiver.received])
        self.receiver.answer()
        self.assertEqual(batch, self.port.written)
        self.assertEqual({}, dict(self.counters.proxy_errors))

    def test_response_rate_limit_applies_to_the_clients(self) -> None:
        """
        Not to the balancer.
        """
        seen: list[str] = []

        def limit(responses: list[tuple[bytes, Any]]) -> list[tuple[bytes, Any]]:
            seen.extend(client.host for _, client in responses)
            return responses[1:]

        self.listener.limit_responses = limit
        for source in ("192.0.2.7", "192.0.2.8"):
            self.listener.datagrams_received([(header(source) + QUERY, Client(BALANCER, 1000))])
        received, self.receiver.received = self.receiver.received, []
        self.listener.send_answers([(octets, client) for _, octets, client in received])
        self.assertEqual(["192.0.2.7", "192.0.2.8"], seen)
        self.assertEqual([(QUERY, BALANCER)], [(octets, client.host) for octets, client in self.port.written])

    def test_server_cookie_is_for_the_client(self) -> None:
        """
        Not for the balancer (RFC 7873 §5.2).
        """
        query = dns.message.make_query(
            "www.example.", "A", options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")]
        ).to_wire()
        for source in ("192.0.2.7", "192.0.2.8", "192.0.2.7"):
            self.listener.datagrams_received([(header(source) + query, Client(BALANCER, 1000))])
        seen = parse_query(query)
        first, second, third = (
            self.listener.options_for(octets, seen, client) for _, octets, client in self.receiver.received
        )
        self.assertEqual(first, third)
        self.assertNotEqual(first, second)


class StreamTests(ProxiedCase):
    """
    Over TCP and TLS.
    """

    def setUp(self) -> None:
        """
        A factory for either.
        """
        super().setUp()
        issued = Authority().issue(["dot.test"])
        context = CurrentContext(ServerTls(issued.certificate_pem, issued.key_pem).context())
        self.over_tcp = proxied_tcp_factory(self.listeners, self.is_balancer, self.counters)
        self.over_tls = proxied_tls_factory(self.listeners, context, self.is_balancer, self.counters)

    def connect(self, host: str = BALANCER, factory: Any = None) -> tuple[Any, Transport]:
        """
        A connection, and its transport.
        """
        transport = Transport(host)
        protocol = (factory or self.over_tcp).buildProtocol(IPv4Address("TCP", host, 4711))
        protocol.makeConnection(transport)
        return protocol, transport

    def lose(self, protocol: Any) -> None:
        """
        It is gone.
        """
        protocol.connectionLost(Failure(ConnectionError()))

    def test_header_may_be_split_anywhere(self) -> None:
        """
        It may come octet by octet or with the queries after it, which are the client's.
        """
        sent = header("2001:db8::7", 99, tlvs=b"\4\0\3abc") + frame(QUERY) * 2
        for size in (1, 7, 16, 28, 52, 60, len(sent)):
            protocol, transport = self.connect()
            for start in range(0, len(sent), size):
                protocol.dataReceived(sent[start : start + size])
            self.assertEqual([("2001:db8::7", 99)] * 2, self.receiver.clients)
            self.assertEqual(TCP, self.receiver.received[0][0].kind)
            self.assertEqual(IPv6Address("TCP", "2001:db8::7", 99), protocol.getPeer())
            self.receiver.answer()
            self.assertEqual([QUERY, QUERY], Deframer().feed(transport.value()))
            self.lose(protocol)
        self.assertEqual([], list(self.listeners.connections))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual({}, dict(self.counters.proxy_errors))

    def test_local_header_is_a_connection_of_the_balancer(self) -> None:
        """
        LOCAL is a connection of the balancer's own.
        """
        protocol, _ = self.connect()
        protocol.dataReceived(header(version=0x20) + frame(QUERY))
        self.assertEqual([(BALANCER, 4711)], self.receiver.clients)

    def test_header_precedes_the_tls_handshake(self) -> None:
        """
        The queries after the handshake are the client's.
        """
        protocol, transport = self.connect(factory=self.over_tls)
        protocol.dataReceived(header("192.0.2.7"))
        client = TlsClient(protocol, transport)
        self.assertTrue(client.shake_hands(), client.error)
        client.send(frame(QUERY))
        self.assertEqual([("192.0.2.7", 4711)], self.receiver.clients)
        self.assertEqual(TLS, self.receiver.received[0][0].kind)
        self.receiver.answer()
        client.exchange()
        self.assertEqual([QUERY], Deframer().feed(client.read))
        self.lose(protocol)
        self.assertEqual([], list(self.listeners.connections))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_header_may_be_inside_tls(self) -> None:
        """
        It may be the first data over TLS, octet by octet, or with the queries after it.
        """
        sent = header("192.0.2.7") + frame(QUERY)
        for size in (1, 20, len(sent)):
            protocol, transport = self.connect(factory=self.over_tls)
            client = TlsClient(protocol, transport)
            self.assertTrue(client.shake_hands(), client.error)
            for start in range(0, len(sent), size):
                client.send(sent[start : start + size])
            self.assertEqual([("192.0.2.7", 4711)], self.receiver.clients)
            self.assertEqual(TLS, self.receiver.received[0][0].kind)
            self.receiver.answer()
            client.exchange()
            self.assertEqual([QUERY], Deframer().feed(client.read))
            self.clock.advance(HEADER_TIMEOUT + 1)
            self.assertFalse(transport.is_aborted)
            self.lose(protocol)
        self.assertEqual({"completed": 3}, dict(self.counters.handshakes))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_header_inside_tls_is_required_within_5_seconds(self) -> None:
        """
        A query without it is not the balancer's.
        """
        for sent in (frame(QUERY), header()[:-1]):
            protocol, transport = self.connect(factory=self.over_tls)
            client = TlsClient(protocol, transport)
            self.assertTrue(client.shake_hands(), client.error)
            client.send(sent)
            self.clock.advance(HEADER_TIMEOUT + 0.1)
            self.assertTrue(transport.is_aborted)
            self.lose(protocol)
        self.assertEqual([], self.receiver.received)
        self.assertEqual({"tls": 2}, dict(self.counters.proxy_errors))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_connection_of_a_balancer_without_header_is_aborted_and_counted(self) -> None:
        """
        No further data of it is read.
        """
        for octets in (frame(QUERY), b"\x16\x03\x01", header(version=0x31), b"PROXY TCP4 "):
            protocol, transport = self.connect()
            protocol.dataReceived(octets)
            self.assertTrue(transport.is_aborted)
            self.lose(protocol)
        protocol, transport = self.connect(factory=self.over_tls)
        protocol.dataReceived(frame(QUERY))
        self.assertTrue(transport.is_aborted)
        self.lose(protocol)
        self.assertEqual([], self.receiver.received)
        self.assertEqual({"tcp": 4, "tls": 1}, dict(self.counters.proxy_errors))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_header_must_arrive_within_5_seconds(self) -> None:
        """
        Partial data does not extend the time; a connection closed before is not counted.
        """
        protocol, transport = self.connect()
        for octet in range(4):
            protocol.dataReceived(header()[octet : octet + 1])
            self.clock.advance(1)
        self.assertFalse(transport.is_aborted)
        self.clock.advance(1)
        self.assertTrue(transport.is_aborted)
        self.lose(protocol)
        gone, _ = self.connect()
        self.lose(gone)
        self.assertEqual({"tcp": 1}, dict(self.counters.proxy_errors))
        self.assertEqual(([], 0), (self.clock.getDelayedCalls(), self.over_tcp.waiting))

    def test_stop_ends_connections_that_wait_for_a_header(self) -> None:
        """
        Before TLS and inside it.
        """
        self.over_tls.doStart()
        outside, first = self.connect(factory=self.over_tls)
        inside, second = self.connect(factory=self.over_tls)
        self.assertTrue(TlsClient(inside, second).shake_hands())
        served, third = self.connect(factory=self.over_tls)
        served.dataReceived(header())
        self.over_tls.doStop()
        self.assertEqual([True, True, False], [one.is_aborted for one in (first, second, third)])
        for protocol in (outside, inside, served):
            self.lose(protocol)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_connections_that_wait_for_a_header_are_bounded(self) -> None:
        """
        No more connections wait for their headers than there may be, and a client for whom there is no room is not
        taken.
        """
        waiting = [self.connect()[0] for _ in range(2)]
        self.assertIs(None, self.over_tcp.buildProtocol(IPv4Address("TCP", BALANCER, 4711)))
        for protocol in waiting:
            protocol.dataReceived(header() + frame(QUERY))
        protocol, transport = self.connect()
        protocol.dataReceived(header())
        self.assertTrue(transport.is_aborted)

    def test_connections_of_other_clients_are_not_parsed(self) -> None:
        """
        Others have their connections as without balancers, with nothing in between; a header of theirs is octets that
        are no query.
        """
        protocol, _ = self.connect(OTHER)
        self.assertIs(TcpConnection, type(protocol))
        protocol.dataReceived(frame(QUERY))
        self.assertEqual([(OTHER, 4711)], self.receiver.clients)
        self.assertIs(ProxiedConnection, type(self.connect(BALANCER)[0]))

    def test_half_closed_connection_gets_its_responses(self) -> None:
        """
        A client that has sent all its queries still gets the responses (RFC 1035 §4.2.2).
        """
        protocol, transport = self.connect()
        self.assertFalse(IHalfCloseableProtocol.providedBy(protocol))
        protocol.dataReceived(header() + frame(QUERY))
        self.assertTrue(IHalfCloseableProtocol.providedBy(protocol))
        protocol.readConnectionLost()
        self.receiver.answer()
        self.assertEqual([QUERY], Deframer().feed(transport.value()))
        self.assertTrue(transport.disconnecting)

    def test_client_that_does_not_read_is_paused_and_aborted(self) -> None:
        """
        Through the balancer as without it.
        """
        protocol, transport = self.connect()
        protocol.dataReceived(header() + frame(QUERY))
        transport.producer.pauseProducing()
        self.assertEqual("paused", transport.producerState)
        self.clock.advance(10.1)
        self.assertTrue(transport.is_aborted)
