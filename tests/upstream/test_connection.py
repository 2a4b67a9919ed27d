"""
One connection: when octets are written, when it is closed, and what its owner is told.
"""

import socket
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import BadReply, ConnectionEnd, Timeout, UpstreamError
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.upstream.connection import DRAIN_TIMEOUT, DotConnection
from dotproxy.upstream.connection_state import CLOSED, CLOSING, DRAINING, READY, RETIRED, ForbiddenTransition
from dotproxy.wire.edns import opt_record
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import HEADER

from .scenes import ZONE, Counting, make_question


class Transport(StringTransport):
    """
    A TLS transport above no socket.
    """

    transport: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.aborted = 0
        self.options: list[str] = []

    def getPeerCertificate(self) -> None:
        """
        Only TLS has one.
        """

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.options.append(f"no delay {enabled}")

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.options.append(f"keep alive {enabled}")

    def abortConnection(self) -> None:
        self.aborted += 1


def keepalive(query: bytes, granted: bytes) -> bytes:
    """
    Return a reply to a query with the edns-tcp-keepalive option (RFC 7828 §3.1).
    """
    reply = ZONE(query)
    assert reply is not None
    end = 12 + len(b"\3www\4test\0") + 4
    option = b"\0\x0b" + len(granted).to_bytes(2, "big") + granted
    return query[:2] + HEADER.pack(0, 0x8180, 1, 0, 0, 1)[2:] + reply[12:end] + opt_record(1232, options=option)


class ConnectionTests(SynchronousTestCase):
    """
    Own transport, own clock; the test is the owner.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = Transport()
        self.counters = UpstreamCounters()
        self.replies: list[tuple[Any, bytes]] = []
        self.lost: list[tuple[list[Any], UpstreamError]] = []
        self.rooms = 0
        self.connection = self.new_connection()
        self.connection.makeConnection(self.transport)

    def new_connection(self) -> DotConnection:
        """
        Return a connection that this test observes, without a transport.
        """
        return DotConnection(
            self,
            clock=self.clock,
            now=self.clock.seconds,
            random_octets=Counting(),
            idle_timeout=30.0,
            counters=self.counters,
        )

    # As its owner.

    def replies_received(self, connection: object, answers: list[tuple[Any, bytes]]) -> None:
        self.replies += answers

    def connection_lost(
        self, connection: object, tokens: list[Any], error: UpstreamError, *, was_retired: bool
    ) -> None:
        self.lost.append((tokens, error))
        self.was_retired = was_retired

    def connection_has_room(self, connection: object) -> None:
        self.rooms += 1

    # What happens.

    def ask(self, *tokens: object) -> list[bytes]:
        """
        Ask, and return the queries that were written.
        """
        self.transport.clear()
        self.connection.send([make_question(token) for token in tokens])
        return list(Deframer().feed(self.transport.value()))

    def reply(self, query: bytes) -> None:
        reply = ZONE(query)
        assert reply is not None
        self.connection.dataReceived(frame(reply))

    def tokens(self) -> list[Any]:
        return [token for token, _ in self.replies]

    def error(self) -> UpstreamError:
        ((_, error),) = self.lost
        return error

    # Tests.

    def test_transport_has_nodelay_keepalive_and_a_producer(self) -> None:
        """
        No Nagle, TCP keepalive, and flow control registered.
        """
        self.assertEqual(["no delay True", "keep alive True"], self.transport.options)
        self.assertIs(self.connection, self.transport.producer)
        self.assertTrue(self.transport.streaming)

    def test_queries_in_flight_are_kept_in_their_order(self) -> None:
        """
        Queries without a reply, in the order they were sent.
        """
        first, second, third = self.ask("a", "b", "c")
        self.assertEqual(
            (3, 3, 0), (self.connection.outstanding, self.connection.queries_sent, self.connection.answers)
        )
        self.reply(second)
        self.assertEqual(["b"], self.tokens())
        self.assertEqual(
            (2, 3, 1), (self.connection.outstanding, self.connection.queries_sent, self.connection.answers)
        )
        self.reply(third)
        self.reply(first)
        self.assertEqual(["b", "c", "a"], self.tokens())
        self.assertEqual(0, self.connection.outstanding)

    def test_replies_of_one_read_are_passed_on_in_one_call(self) -> None:
        """
        One call for all of them.
        """
        told: list[int] = []
        self.replies_received = lambda connection, answers: told.append(len(answers))  # type: ignore[method-assign]
        replies = [ZONE(query) or b"" for query in self.ask("a", "b")]
        self.connection.dataReceived(b"".join(map(frame, replies)))
        self.assertEqual([2], told)

    def test_queries_without_tls_are_counted(self) -> None:
        """
        Over TLS none is counted; each query over anything else is.
        """
        self.ask("a")
        self.assertEqual(0, self.counters.plaintext)
        plain: Any = StringTransport()
        plain.setTcpKeepAlive = plain.setTcpNoDelay = lambda enabled: None
        self.connection = self.new_connection()
        self.connection.makeConnection(plain)
        self.ask("b", "c")
        self.assertEqual(2, self.counters.plaintext)

    def test_send_updates_last_use_and_data_updates_last_heard(self) -> None:
        """
        A send is a use; only octets from the upstream update the time it was last heard.
        """
        self.clock.advance(1)
        (query,) = self.ask("a")
        self.assertEqual((0.0, 1.0), (self.connection.last_heard, self.connection.last_used))
        self.clock.advance(2)
        self.reply(query)
        self.assertEqual((3.0, 3.0), (self.connection.last_heard, self.connection.last_used))

    def test_blocked_transport_has_no_room_and_resume_is_reported_once(self) -> None:
        """
        While the transport's buffer is full there is no room; the observer is called once when there is.
        """
        self.assertEqual(32768, self.connection.room())
        self.ask("a")
        self.assertEqual(32767, self.connection.room())
        self.connection.pauseProducing()
        self.assertEqual(0, self.connection.room())
        self.connection.resumeProducing()
        self.connection.resumeProducing()
        self.assertEqual((32767, 1), (self.connection.room(), self.rooms))

    def test_idle_connection_is_closed_after_30_seconds(self) -> None:
        """
        Counted from the last use.
        """
        self.clock.advance(20)
        (query,) = self.ask("a")
        self.reply(query)
        self.clock.advance(29.9)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual((ConnectionEnd.IDLE, CLOSING), (self.connection.ended_for, self.connection.state))

    def test_connection_with_queries_in_flight_is_not_idle(self) -> None:
        """
        It is checked again after half the idle timeout at the earliest.
        """
        (query,) = self.ask("a")
        self.clock.pump([15.0] * 8)
        self.assertFalse(self.transport.disconnecting)
        self.reply(query)
        self.clock.pump([10.0] * 3)
        self.assertTrue(self.transport.disconnecting)

    def test_closing_connection_takes_no_queries_and_is_aborted_after_a_second(self) -> None:
        """
        It takes no more queries, and is aborted a second later, if it still stands.
        """
        self.connection.close(ConnectionEnd.AGE)
        self.assertEqual((0, True), (self.connection.room(), self.transport.disconnecting))
        self.assertIsNone(self.transport.producer)
        self.clock.advance(0.9)
        self.assertEqual(0, self.transport.aborted)
        self.clock.advance(0.1)
        self.assertEqual(1, self.transport.aborted)

    def test_second_close_keeps_the_first_reason(self) -> None:
        """
        A second close changes nothing.
        """
        self.connection.close(ConnectionEnd.AGE)
        self.connection.close(ConnectionEnd.IDLE)
        self.assertEqual(ConnectionEnd.AGE, self.connection.ended_for)
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual("closed here: age", self.error().reason)

    def test_lost_connection_reports_its_queries_and_leaves_no_timer(self) -> None:
        """
        Queries in flight are reported with the reason, and no timer is left.
        """
        self.ask("a", "b")
        self.connection.close(ConnectionEnd.AGE)
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([["a", "b"]], [tokens for tokens, _ in self.lost])
        self.assertEqual((0, 0), (self.connection.outstanding, self.connection.room()))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_end_by_the_upstream_has_words_and_a_code(self) -> None:
        """
        The end has a text and a code, and is marked as the upstream's.
        """
        self.ask("a")
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(
            ("the connection broke", ConnectionEnd.CONNECTION_LOST), (self.error().reason, self.error().code)
        )
        self.assertEqual(("", CLOSED), (self.connection.ended_for, self.connection.state))

    def test_abort_ends_at_once_with_the_first_error(self) -> None:
        """
        The connection is aborted at once; the first error is reported.
        """
        self.ask("a")
        error = Timeout("read", "silent")
        self.connection.abort(error)
        self.connection.abort(BadReply("read", "later"))
        self.assertEqual(2, self.transport.aborted)
        self.assertEqual((ConnectionEnd.INVALID_MESSAGE, CLOSING), (self.connection.ended_for, self.connection.state))
        self.connection.close(ConnectionEnd.IDLE)
        self.assertFalse(self.transport.disconnecting)
        self.connection.connectionLost(Failure(ConnectionAborted()))
        self.assertIs(error, self.error())

    def test_malformed_message_ends_the_connection_once(self) -> None:
        """
        A message that cannot be DNS ends the connection, once; replies before it count.
        """
        (query,) = self.ask("a")
        self.connection.dataReceived(frame(ZONE(query) or b"") + frame(b"short"))
        self.assertEqual((["a"], 1), (self.tokens(), self.transport.aborted))
        self.connection.dataReceived(frame(b"short"))
        self.assertEqual(1, self.transport.aborted)
        self.connection.connectionLost(Failure(ConnectionAborted()))
        self.assertIsInstance(self.error(), BadReply)
        self.assertEqual("the upstream sent a message of 5 octets", self.error().reason)

    def test_granted_keepalive_timeout_shortens_the_idle_timeout(self) -> None:
        """
        Nine tenths of what the upstream grants, in tenths of a second, replace a longer idle timeout (RFC 7828 §3.2.2).
        """
        (query,) = self.ask("a")
        self.connection.dataReceived(frame(keepalive(query, (100).to_bytes(2, "big"))))
        self.clock.advance(8.9)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnecting)

    def test_longer_granted_timeout_is_ignored(self) -> None:
        """
        The configured idle timeout is the maximum.
        """
        (query,) = self.ask("a")
        self.connection.dataReceived(frame(keepalive(query, (6000).to_bytes(2, "big"))))
        self.clock.advance(29.9)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnecting)

    def test_connection_is_ready_from_its_verification_to_its_end(self) -> None:
        """
        It takes queries once verified; the end is reported once.
        """
        connection = self.new_connection()
        self.assertEqual("<DotConnection dialling: 0 in flight, 0 replies received>", repr(connection))
        connection.makeConnection(Transport())
        self.assertEqual((READY, True), (connection.state, connection.is_open))
        connection.connectionLost()
        self.assertEqual((CLOSED, False), (connection.state, connection.is_open))
        self.assertRaises(ForbiddenTransition, connection.connectionLost)
        self.assertEqual(1, len(self.lost))

    def test_draining_connection_is_closed_after_the_last_reply(self) -> None:
        """
        It takes no more queries; the reason for draining is the reason for the close.
        """
        (query,) = self.ask("a")
        self.connection.drain(ConnectionEnd.AGE)
        self.connection.drain(ConnectionEnd.REPLACED)
        self.assertEqual(
            (DRAINING, 0, False), (self.connection.state, self.connection.room(), self.transport.disconnecting)
        )
        self.reply(query)
        self.assertEqual((["a"], True), (self.tokens(), self.transport.disconnecting))
        self.assertEqual(ConnectionEnd.AGE, self.connection.ended_for)

    def test_draining_connection_is_aborted_after_a_timeout(self) -> None:
        """
        Its queries are reported with that.
        """
        self.ask("a")
        self.connection.drain(ConnectionEnd.REPLACED)
        self.clock.advance(DRAIN_TIMEOUT)
        self.assertEqual(1, self.transport.aborted)
        self.connection.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual([["a"]], [tokens for tokens, _ in self.lost])
        self.assertEqual(("no answer in time", False), (self.error().reason, self.was_retired))

    def test_draining_without_queries_in_flight_closes_at_once(self) -> None:
        """
        It is closed.
        """
        self.connection.drain(ConnectionEnd.REPLACED)
        self.assertEqual((CLOSING, True), (self.connection.state, self.transport.disconnecting))

    def test_retired_connection_hands_its_queries_back_once(self) -> None:
        """
        Oldest first; a late reply is reported all the same, and the end without them.
        """
        _, second = self.ask("a", "b")
        error = Timeout("read", "silent")
        self.connection.drain(ConnectionEnd.REPLACED)
        self.assertEqual(["a", "b"], self.connection.retire(error))
        self.assertEqual([], self.connection.retire(error))
        self.reply(second)
        self.assertEqual((RETIRED, ["b"], 0), (self.connection.state, self.tokens(), self.connection.room()))
        self.clock.advance(DRAIN_TIMEOUT)
        self.assertEqual(1, self.transport.aborted)
        self.connection.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual([([], error)], self.lost)
        self.assertTrue(self.was_retired)

    def test_retired_connection_is_closed_after_the_last_reply(self) -> None:
        """
        It stays retired until it is gone.
        """
        (query,) = self.ask("a")
        self.connection.retire(Timeout("read", "silent"))
        self.reply(query)
        self.assertEqual((RETIRED, True), (self.connection.state, self.transport.disconnecting))
        self.assertEqual(ConnectionEnd.REPLACED, self.connection.ended_for)

    def test_keepalive_timeout_of_zero_drains_the_connection(self) -> None:
        """
        No more queries are sent; replies in flight are waited for (RFC 7828 §3.4).
        """
        first, second = self.ask("a", "b")
        self.connection.dataReceived(frame(keepalive(first, b"\0\0")))
        self.assertEqual((0, False), (self.connection.room(), self.transport.disconnecting))
        self.connection.dataReceived(frame(keepalive(second, b"\0\0")))
        self.assertEqual(["a", "b"], self.tokens())
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(ConnectionEnd.ASKED_TO_CLOSE, self.connection.ended_for)
        self.clock.advance(1.0)
        self.assertEqual(1, self.transport.aborted)
        self.clock.advance(10.0)
        self.assertEqual(1, self.transport.aborted)

    def test_draining_ends_after_four_seconds_without_the_last_reply(self) -> None:
        """
        After four seconds the connection is closed.
        """
        first, _ = self.ask("a", "b")
        self.connection.dataReceived(frame(keepalive(first, b"\0\0")))
        self.clock.advance(3.9)
        self.assertEqual(0, self.transport.aborted)
        self.clock.advance(0.1)
        self.assertEqual(1, self.transport.aborted)

    def test_keepalive_option_without_timeout_is_ignored(self) -> None:
        """
        The option without a timeout is what clients send.
        """
        (query,) = self.ask("a")
        self.connection.dataReceived(frame(keepalive(query, b"")))
        self.assertEqual((READY, 32768), (self.connection.state, self.connection.room()))


class Socket:
    """
    A socket that keeps the options that are set.
    """

    def __init__(self) -> None:
        self.set: list[tuple[int, int, int]] = []

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self.set.append((level, name, value))


class Lower:
    """
    The transport below TLS, on a socket.
    """

    def __init__(self) -> None:
        self.socket = Socket()
        self.writes = 0

    def getHandle(self) -> Socket:
        return self.socket

    def doWrite(self) -> None:
        self.writes += 1


class SocketTests(ConnectionTests):
    """
    The same above a socket, and what is done to that.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.transport = Transport()
        self.lower = self.transport.transport = Lower()
        self.connection = DotConnection(
            self,
            clock=self.clock,
            now=self.clock.seconds,
            random_octets=Counting(),
            idle_timeout=30.0,
            counters=self.counters,
        )
        self.connection.makeConnection(self.transport)

    def test_socket_has_tcp_user_timeout_and_quickack(self) -> None:
        """
        Its peer is given up after 10 s without acknowledgement (TCP_USER_TIMEOUT, RFC 5482); what comes is acknowledged
        at once (TCP_QUICKACK): a moment after the handshake, and after each read.
        """
        quick = (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        options = self.lower.socket.set
        self.assertEqual([(socket.IPPROTO_TCP, 18, 10_000)], options)
        self.clock.advance(0.001)
        self.assertEqual(1, len(options))
        self.clock.advance(0.001)
        self.assertEqual([quick], options[1:])
        (query,) = self.ask("a")
        self.reply(query)
        self.assertEqual([quick, quick], options[1:])

    def test_batch_is_written_at_once_unless_closing(self) -> None:
        """
        Each batch is written without a reactor iteration; not once the connection closes.
        """
        self.ask("a", "b")
        self.ask("c")
        self.assertEqual(2, self.lower.writes)
        self.connection.close(ConnectionEnd.AGE)
        self.connection.send([make_question("d")])
        self.assertEqual(2, self.lower.writes)

    def test_socket_and_timers_end_with_the_connection(self) -> None:
        """
        A connection that ends right after its handshake leaves no timer for the acknowledgement, nor sets the option.
        """
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.clock.advance(1)
        self.assertEqual(1, len(self.lower.socket.set))
