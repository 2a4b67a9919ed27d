"""
The gate: verified, or no connection.
"""

from twisted.internet import error as net_error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Incompatible, Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.testing.server import DotServer, MemoryNetwork
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from tests.upstream.scenes import ADDRESS, AUTHORITY, GOOD, ZONE, make_verifier


class Behind(Protocol):
    """
    What stands behind the gate.
    """

    made = 0

    def connectionMade(self) -> None:
        """
        It was let through.
        """
        self.made += 1


class Silent(Protocol):
    """
    A server that accepts TCP and never says a word; it keeps what it hears.
    """

    heard = b""

    def dataReceived(self, data: bytes) -> None:
        """
        Something came.
        """
        self.heard += data


class Chatty(Silent):
    """
    A server that speaks something else.
    """

    greeting = b""

    def connectionMade(self) -> None:
        """
        It speaks first.
        """
        self.transport.write(self.greeting)


class GateTests(SynchronousTestCase):
    """
    When a connection stands, and what is told when it does not.
    """

    def setUp(self) -> None:
        """
        An endpoint, on a network in memory.
        """
        self.network = MemoryNetwork()
        self.clock = self.network.reactor
        self.built: list[Behind] = []
        self.verifier = make_verifier()

    def connect(self, host: str = ADDRESS) -> Deferred[object]:
        """
        Dial.
        """

        def build() -> Behind:
            self.built.append(Behind())
            return self.built[-1]

        return VerifiedEndpoint(self.clock, host, 853, self.verifier, 3.0).connect(Factory.forProtocol(build))

    def failed(self, dialled: Deferred[object]) -> UpstreamError:
        """
        Why that failed, having seen that nothing was let through and nothing is left.
        """
        error = self.failureResultOf(dialled).value
        self.assertIsInstance(error, UpstreamError)
        self.assertEqual([], self.built)
        self.network.settle()
        self.assertEqual([], self.clock.getDelayedCalls())
        return error

    def test_protocol_is_built_after_verification(self) -> None:
        """
        The protocol is built when the peer is verified, and told its identity.
        """
        dialled = self.connect()
        self.assertEqual([], self.built)
        self.network.accept(DotServer(ZONE, GOOD))
        behind = self.successResultOf(dialled)
        self.assertEqual([behind], self.built)
        self.assertEqual((1, "dot.test"), (behind.made, behind.identity.verified))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_ipv6_address_is_dialled(self) -> None:
        """
        An IPv6 address is dialled as one.
        """
        self.connect("2001:db8::53")
        self.assertEqual([("2001:db8::53", 853)], self.network.dialled)
        self.network.accept(DotServer(ZONE, GOOD))
        self.assertEqual(1, len(self.built))

    def test_wrong_name_fails_the_dial_at_once(self) -> None:
        """
        A peer that is somebody else ends the attempt, at once.
        """
        dialled = self.connect()
        server = DotServer(ZONE, AUTHORITY.issue(["other.test"]))
        self.network.accept(server)
        self.assertIsInstance(self.failed(dialled), Untrusted)
        self.assertEqual([], server.connections)

    def test_factory_that_returns_none_ends_the_connection(self) -> None:
        """
        When nothing is to stand behind it, there is no connection.
        """

        class Nothing(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        dialled = VerifiedEndpoint(self.clock, ADDRESS, 853, self.verifier, 3.0).connect(Nothing())
        self.network.accept(DotServer(ZONE, GOOD))
        self.assertEqual("no longer wanted", self.failed(dialled).reason)

    def test_tcp_error_is_passed_on_with_its_phase(self) -> None:
        """
        What the kernel says is passed on, with the phase.
        """
        told = {
            net_error.ConnectionRefusedError(111, "Connection refused"): "connection refused",
            net_error.NoRouteError(113, "No route to host"): "no route to host",
            net_error.ConnectError(101, "Network is unreachable"): "network is unreachable",
            net_error.ConnectError(string="odd"): "An error occurred while connecting: odd.",
            net_error.ConnectionDone(): "given up",
            CancelledError(): "given up",
        }
        for error, reason in told.items():
            dialled = self.connect()
            self.network.refuse(error)
            failed = self.failed(dialled)
            self.assertIsInstance(failed, Unreachable)
            self.assertEqual(("connect", reason), (failed.phase, failed.reason))

    def test_kernel_timeout_is_a_timeout_error(self) -> None:
        """
        The kernel's timeout is one.
        """
        for error in (net_error.TimeoutError(), net_error.TCPTimedOutError(110, "Connection timed out")):
            dialled = self.connect()
            self.network.refuse(error)
            failed = self.failed(dialled)
            self.assertEqual("connect", failed.phase)
            self.assertIn("timed out", failed.reason)

    def test_dial_without_an_answer_times_out(self) -> None:
        """
        A dial that nothing comes of ends in time.
        """
        dialled = self.connect()
        self.clock.advance(2.99)
        self.assertNoResult(dialled)
        self.clock.advance(0.02)
        error = self.failed(dialled)
        self.assertIsInstance(error, Timeout)
        self.assertEqual(("connect", "connecting took more than 3 s"), (error.phase, error.reason))
        self.assertTrue(self.clock.connectors[0].stoppedConnecting)

    def test_silent_handshake_times_out_and_aborts(self) -> None:
        """
        The handshake has to be done in time, too; then the connection is cut.
        """
        dialled = self.connect()
        server = Silent()
        self.network.accept_plain(Factory.forProtocol(lambda: server))
        self.network.advance(2.0)
        self.assertNoResult(dialled)
        self.network.advance(1.1)
        error = self.failed(dialled)
        self.assertEqual(("tls", "the handshake took more than 3 s"), (error.phase, error.reason))
        self.assertTrue(server.transport.disconnecting or server.transport.disconnected)
        self.assertEqual(0x16, server.heard[0], "the first octet was no TLS handshake")

    def test_non_tls_server_fails_the_handshake(self) -> None:
        """
        Plain DNS, HTTP and rubbish fail the handshake, and get nothing but its beginning (RFC 7858 §3.1).
        """
        for greeting in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\x0c" + b"\0" * 12, b"\x15\x03\x03\0\2\2\x28"):
            dialled = self.connect()
            server = Chatty()
            server.greeting = greeting
            self.network.accept_plain(Factory.forProtocol(lambda server=server: server))
            error = self.failed(dialled)
            self.assertEqual(("tls", Incompatible), (error.phase, type(error)))
            self.assertIn("the handshake failed", error.reason)
            self.assertEqual(0x16, server.heard[0])

    def test_connection_lost_in_the_handshake_is_reported_at_once(self) -> None:
        """
        A connection that ends during the handshake is told of at once.
        """
        for how in ("loseConnection", "abortConnection"):
            dialled = self.connect()
            server = Silent()
            self.network.accept_plain(Factory.forProtocol(lambda server=server: server))
            getattr(server.transport, how)()
            self.network.settle()
            error = self.failed(dialled)
            self.assertEqual("tls", error.phase)

    def test_dial_can_be_cancelled_at_any_stage(self) -> None:
        """
        An attempt can be given up at any stage, and leaves nothing.
        """
        dialled = self.connect()
        dialled.cancel()
        self.failureResultOf(dialled)
        self.assertTrue(self.clock.connectors[0].stoppedConnecting)
        self.network._taken += 1
        dialled = self.connect()
        server = Silent()
        self.network.accept_plain(Factory.forProtocol(lambda: server))
        dialled.cancel()
        self.failureResultOf(dialled)
        self.network.settle()
        self.assertTrue(server.transport.disconnected)
        self.assertEqual(([], []), (self.built, self.clock.getDelayedCalls()))

    def test_missing_tls_support_is_an_error_without_a_dial(self) -> None:
        """
        Where TLS cannot be used at all, that is said, and nothing dialled.
        """

        def forbid() -> None:
            raise MemoryError("no write+execute memory")

        self.patch(self.verifier, "handshake", forbid)
        error = self.failed(self.connect())
        self.assertEqual("TLS cannot be used on this system: no write+execute memory", error.reason)
        self.assertEqual([], self.network.dialled)
