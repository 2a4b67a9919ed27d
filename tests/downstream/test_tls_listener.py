"""
Clients over TLS.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import dns.edns
import dns.message
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.names.client import Resolver
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.tls_context import CurrentContext, ServerTls
from dotproxy.downstream.tls_listener import HANDSHAKE_TIMEOUT, TlsConnectionFactory, TlsListenerFactory
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.share_settings import ShareSettings
from dotproxy.telemetry.counters import TLS, ListenerCounters
from dotproxy.testing.certificates import Authority
from dotproxy.upstream.tls_reads import new_connection
from dotproxy.wire.edns import KEEPALIVE
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import parse_query
from tests.downstream.tls_client import TlsClient, Transport, client_context

AUTHORITY = Authority()
ISSUED = AUTHORITY.issue(["dot.test"])
QUERY = dns.message.make_query("www.example.", "A").to_wire()
PADDED_QUERY = dns.message.make_query(
    "www.example.", "A", options=[dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"")]
).to_wire()


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

    def answer(self) -> None:
        """
        Answer everything.
        """
        received, self.received = self.received, []
        for listener, octets, client in received:
            response = dns.message.make_response(dns.message.from_wire(octets), recursion_available=True)
            response.use_edns(0, payload=1232, pad=0)  # dnspython would pad it
            listener.send_answers([(response.to_wire(), client)])


class TlsListenerCase(SynchronousTestCase):
    """
    A listener, and clients of it.
    """

    def setUp(self) -> None:
        """
        A listener with a certificate.
        """
        self.clock = Clock()
        self.receiver = QueryReceiver()
        self.counters = ListenerCounters()
        self.plain = ListenerFactory(
            self.receiver,
            Resolver(servers=[("127.0.0.1", 1)], reactor=self.clock),
            clock=self.clock,
            now=self.clock.seconds,
            idle_timeout=10.0,
            max_connections=2,
            max_outstanding=16,
            share_of=lambda host: ClientShares(ShareSettings(lambda host: True, max_in_flight=100)).share_of(host, 0.0),
        )
        self.serve(ServerTls(ISSUED.certificate_pem, ISSUED.key_pem))

    def serve(self, tls: ServerTls) -> None:
        """
        Serve with another certificate.
        """
        self.current = CurrentContext(tls.context(), new_connection)
        self.factory = TlsListenerFactory(TlsConnectionFactory(self.plain, self.counters), self.current, self.clock)

    def connect(self, context: SSL.Context | None = None, **changes: Any) -> TlsClient:
        """
        Have a client connect.
        """
        transport = Transport()
        protocol = self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.9", 4711))
        protocol.makeConnection(transport)
        return TlsClient(protocol, transport, context, **changes)

    def lose(self, client: TlsClient) -> None:
        """
        The connection is gone.
        """
        client.protocol.connectionLost(Failure(ConnectionError()))


class HandshakeTests(TlsListenerCase):
    """
    Who comes to a session, and how.
    """

    def test_tls_1_2_and_1_3_with_aead_ciphers_are_accepted(self) -> None:
        """
        TLS 1.2 and 1.3 with ciphers that are authenticated and have forward secrecy (RFC 9325 §4.2).
        """
        for version, name in ((SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_3_VERSION, "TLSv1.3")):
            client = self.connect(version=version)
            self.assertTrue(client.shake_hands(), client.error)
            self.assertEqual(name, client.connection.get_protocol_version_name())
            self.lose(client)
        for ciphers in (b"AES128-SHA", b"AES128-GCM-SHA256", b"ECDHE-ECDSA-AES128-SHA"):
            client = self.connect(version=SSL.TLS1_2_VERSION, ciphers=ciphers)
            self.assertFalse(client.shake_hands())
            self.assertIn("handshake failure", client.error)
            self.lose(client)

    def test_versions_below_the_minimum_are_refused(self) -> None:
        """
        TLS 1.1 is refused; with a minimum of 1.3, 1.2 is, too.
        """
        for ciphers in ("", "ALL:@SECLEVEL=0"):
            self.serve(ServerTls(ISSUED.certificate_pem, ISSUED.key_pem, ciphers=ciphers))
            client = self.connect(version=SSL.TLS1_1_VERSION, ciphers=b"ALL:@SECLEVEL=0")
            self.assertFalse(client.shake_hands())
            self.assertIn("protocol version", client.error)
            self.lose(client)
        self.serve(ServerTls(ISSUED.certificate_pem, ISSUED.key_pem, minimum="1.3"))
        client = self.connect(version=SSL.TLS1_2_VERSION)
        self.assertFalse(client.shake_hands())
        self.assertIn("protocol version", client.error)

    def test_alpn_dot_is_chosen_or_the_handshake_fails(self) -> None:
        """
        ``dot`` is chosen among others; without it, of those offered, there is no session (RFC 7301 §3.2); a client that
        offers nothing is served.
        """
        for offered, chosen in (([b"dot"], b"dot"), ([b"h2", b"dot"], b"dot"), (None, b"")):
            client = self.connect(alpn=offered)
            self.assertTrue(client.shake_hands(), client.error)
            self.assertEqual(chosen, client.connection.get_alpn_proto_negotiated())
            self.lose(client)
        client = self.connect(alpn=[b"h2", b"http/1.1"])
        self.assertFalse(client.shake_hands())
        self.assertIn("no application protocol", client.error)
        self.assertTrue(client.transport.disconnecting)

    def test_renegotiation_is_refused(self) -> None:
        """
        What the client sends then is not read.
        """
        client = self.connect(version=SSL.TLS1_2_VERSION)
        self.assertTrue(client.shake_hands())
        client.connection.renegotiate()
        with self.assertRaises(SSL.Error):
            client.connection.do_handshake()
            client.exchange()
            client.connection.do_handshake()
        self.assertEqual([], self.receiver.received)

    def test_session_is_resumed_by_ticket_until_the_context_is_replaced(self) -> None:
        """
        A session is resumed by ticket, with TLS 1.2 and 1.3, until the context is replaced.
        """
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = client_context(version=version)
            first = self.connect(context)
            self.assertTrue(first.shake_hands())
            session = first.connection.get_session()
            self.lose(first)
            again = self.connect(context)
            again.connection.set_session(session)
            self.assertTrue(again.shake_hands())
            self.assertTrue(was_resumed(again))
            self.lose(again)
            self.current.context = ServerTls(ISSUED.certificate_pem, ISSUED.key_pem).context()
            last = self.connect(context)
            last.connection.set_session(session)
            self.assertTrue(last.shake_hands(), last.error)
            self.assertFalse(was_resumed(last))
            self.lose(last)

    def test_client_certificate_of_a_configured_ca_is_required(self) -> None:
        """
        With CAs for clients, those with a client's certificate of one of them are served, on resumption too; those
        with another, with a server's, or with none are not.
        """
        self.serve(ServerTls(ISSUED.certificate_pem, ISSUED.key_pem, AUTHORITY.pem))
        right = AUTHORITY.issue(["phone.test"], is_client=True)
        stranger = Authority("other").issue(["phone.test"], is_client=True)
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = client_context(version=version, certificate=right)
            session = None
            for _ in range(2):
                client = self.connect(context)
                if session is not None:
                    client.connection.set_session(session)
                self.assertTrue(client.shake_hands(), client.error)
                client.send(frame(QUERY))
                self.receiver.answer()
                client.exchange()
                self.assertEqual(1, len(Deframer().feed(client.read)))
                session = client.connection.get_session()
                self.lose(client)
            for wrong in (stranger, ISSUED, None):
                client = self.connect(version=version, certificate=wrong)
                client.shake_hands()
                self.assertTrue(client.error)
                self.assertEqual([], self.receiver.received)
                self.assertTrue(client.transport.disconnecting)
                self.lose(client)

    def test_new_certificate_does_not_affect_open_connections(self) -> None:
        """
        Connections that stand go on, and a handshake that has begun ends, when there is another certificate; the next
        one gets it.
        """
        standing, begun = self.connect(), self.connect()
        self.assertTrue(standing.shake_hands())
        other = AUTHORITY.issue(["dot.test"])
        self.current.context = ServerTls(other.certificate_pem, other.key_pem).context()
        standing.send(frame(QUERY))
        self.assertEqual(1, len(self.receiver.received))
        self.assertTrue(begun.shake_hands())
        self.assertEqual(ISSUED.certificate.serial_number, serial_of(begun))
        self.lose(begun)
        fresh = self.connect()
        self.assertTrue(fresh.shake_hands())
        self.assertEqual(other.certificate.serial_number, serial_of(fresh))

    def test_handshake_ends_after_5_seconds(self) -> None:
        """
        A handshake that does not end in 5 s is ended, whatever is sent meanwhile; it has a place among the connections
        until then.
        """
        silent = self.connect()
        slow = self.connect()
        hello = hello_of(slow)
        self.assertEqual(2, len(self.plain.connections))
        for octet in range(int(HANDSHAKE_TIMEOUT) - 1):
            slow.protocol.dataReceived(hello[octet : octet + 1])
            self.clock.advance(1)
        self.assertFalse(silent.transport.is_aborted or slow.transport.is_aborted)
        self.clock.advance(1)
        self.assertTrue(silent.transport.is_aborted and slow.transport.is_aborted)
        self.assertEqual({"timed_out": 2}, dict(self.counters.handshakes))
        for client in (silent, slow):
            self.lose(client)
        self.assertEqual([], list(self.plain.connections))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_handshake_is_counted_once_by_its_result(self) -> None:
        """
        A handshake counts once, by how it ended.
        """
        good = self.connect()
        self.assertTrue(good.shake_hands())
        self.clock.advance(HANDSHAKE_TIMEOUT + 1)
        self.assertFalse(good.transport.is_aborted)
        self.lose(good)
        bad = self.connect(alpn=[b"h2"])
        bad.shake_hands()
        self.lose(bad)
        garbage = self.connect()
        garbage.protocol.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assertTrue(garbage.transport.disconnecting)
        self.lose(garbage)
        self.assertEqual({"completed": 1, "failed": 2}, dict(self.counters.handshakes))
        self.assertEqual([], self.clock.getDelayedCalls())


class QueryTests(TlsListenerCase):
    """
    What is asked over TLS.
    """

    def test_queries_over_tls_are_handled_as_over_tcp(self) -> None:
        """
        Queries are handed on as they come, also with the handshake's last octets, and answered in one write; the kind
        is TLS, and the client has its address.
        """
        client = self.connect()
        self.assertTrue(client.shake_hands())
        client.send(frame(QUERY) + frame(QUERY)[:5])
        client.send(frame(QUERY)[5:])
        self.assertEqual([("127.0.0.9", 4711)] * 2, [(one.host, one.port) for _, _, one in self.receiver.received])
        self.assertEqual([(TLS, True)] * 2, [(one.kind, one.is_stream) for one, _, _ in self.receiver.received])
        self.receiver.answer()
        client.exchange()
        self.assertEqual(2, len(Deframer().feed(client.read)))

    def test_response_is_padded_only_if_the_query_has_padding(self) -> None:
        """
        The response to a query with a padding option is padded, the one beside it is not (RFC 7830 §4).
        """
        client = self.connect()
        self.assertTrue(client.shake_hands())
        client.send(frame(QUERY) + frame(PADDED_QUERY))
        self.receiver.answer()
        client.exchange()
        plain, padded = Deframer().feed(client.read)
        self.assertNotEqual(0, len(plain) % 468)
        self.assertEqual(468, len(padded))

    def test_keepalive_option_is_answered_with_the_idle_timeout(self) -> None:
        """
        A client that asks how long its connection may be idle is told (RFC 7828 §3.3.2).
        """
        keepalive = dns.edns.GenericOption(KEEPALIVE, b"")
        query = dns.message.make_query("www.example.", "A", options=[keepalive]).to_wire()
        client = self.connect()
        self.assertTrue(client.shake_hands())
        client.send(frame(query))
        listener, octets, address = self.receiver.received.pop()
        self.assertEqual(b"\0\x0b\0\2\0\x64", listener.options_for(octets, parse_query(octets), address))

    def test_idle_connection_ends_with_close_notify(self) -> None:
        """
        An idle connection ends with close_notify, which a client has a while to answer; the client's own close_notify
        is answered with one.
        """
        for answers in (True, False):
            client = self.connect()
            self.assertTrue(client.shake_hands())
            self.clock.advance(10.1)
            client.exchange()
            self.assertTrue(client.is_closed)
            self.assertFalse(client.transport.disconnecting or client.transport.is_aborted)
            if answers:
                client.close()
            else:
                self.clock.advance(10.1)
            self.assertTrue(client.transport.disconnecting)
            self.assertEqual(not answers, client.transport.is_aborted)
            self.lose(client)
        client = self.connect()
        self.assertTrue(client.shake_hands())
        client.close()
        self.assertTrue(client.is_closed)
        self.assertTrue(client.transport.disconnecting)
        self.lose(client)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_client_that_does_not_read_is_paused_and_aborted(self) -> None:
        """
        It is not read from, and the connection ends after a time.
        """
        client = self.connect()
        self.assertTrue(client.shake_hands())
        client.transport.producer.pauseProducing()
        self.assertEqual("paused", client.transport.producerState)
        client.transport.producer.resumeProducing()
        self.assertEqual("producing", client.transport.producerState)
        client.transport.producer.pauseProducing()
        self.clock.advance(10.1)
        self.assertTrue(client.transport.is_aborted)

    def test_tls_and_tcp_share_one_connection_table(self) -> None:
        """
        The connection idle longest over either makes room.
        """
        first = self.connect()
        over_tcp = self.plain.buildProtocol(IPv4Address("TCP", "127.0.0.8", 4711))
        over_tcp.makeConnection(Transport())
        self.clock.advance(1)
        self.assertTrue(first.shake_hands())
        second = self.connect()
        self.assertTrue(first.transport.is_aborted)
        self.lose(first)
        self.assertTrue(second.shake_hands())
        self.assertEqual(2, len(self.plain.connections))

    def test_connection_is_refused_if_all_are_in_use(self) -> None:
        """
        Where every connection has queries in flight there is no room.
        """
        for _ in range(2):
            client = self.connect()
            self.assertTrue(client.shake_hands())
            client.send(frame(QUERY))
        self.assertIs(None, self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.9", 4711)))


def was_resumed(client: TlsClient) -> bool:
    """
    Whether no certificate came.
    """
    library: Any = SSL._lib
    return bool(library.SSL_session_reused(client.connection._ssl))


def serial_of(client: TlsClient) -> int:
    """
    The serial number of the certificate that was shown.
    """
    certificate = client.connection.get_peer_certificate()
    assert certificate is not None
    return certificate.get_serial_number()


def hello_of(client: TlsClient) -> bytes:
    """
    A client's first octets.
    """
    with contextlib.suppress(SSL.WantReadError):
        client.connection.do_handshake()
    return client.connection.bio_read(1 << 16)
