"""
One TCP client.
"""

from collections.abc import Callable, Iterable
from typing import Any

import dns.edns
import dns.message
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.names.client import Resolver
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.tcp import TcpConnection
from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.share_settings import ShareSettings
from dotproxy.policy.stream_limits import INITIAL_WINDOW, MAX_UNREAD_PER_CONNECTION, MAX_UNREAD_TOTAL
from dotproxy.wire.framing import MAX_QUERY, Deframer, frame
from dotproxy.wire.message import parse_query


class Transport(StringTransport):
    """
    A TCP transport that notes what is done to it.
    """

    def __init__(self, host: str = "127.0.0.9") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 4711))
        self.writes: list[bytes] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Nothing to note.
        """

    def write(self, data: bytes) -> None:
        """
        Octets for the client.
        """
        self.writes.append(data)


class QueryReceiver:
    """
    A forwarder in whose place a test answers.
    """

    def __init__(self) -> None:
        self.batches: list[list[tuple[bytes, Any]]] = []
        self.silent = 0
        self.at_once = False
        self.answer: bytes | None = None
        self.takes: Callable[[], object] = lambda: None

    def handle_batch(self, listener: Any, batch: Iterable[tuple[bytes, Any]]) -> int:
        """
        Called by the listener.
        """
        questions = list(batch)
        self.batches.append(questions)
        self.takes()
        if self.answer is not None:
            listener.send_answers([(self.answer, client) for _, client in questions])
        elif self.at_once:
            listener.send_answers(questions)
        return self.silent


class Source:
    """
    Where parts come from.
    """

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        """
        Called by the listener.
        """
        self.told.append("pause")

    def resume(self) -> None:
        """
        Called by the listener.
        """
        self.told.append("resume")

    def client_gone(self) -> None:
        """
        Called by the listener.
        """
        self.told.append("gone")


class StreamScene(SynchronousTestCase):
    """
    A client that is connected, and whoever connects besides.
    """

    def setUp(self) -> None:
        """
        A client, connected.
        """
        self.clock = Clock()
        self.receiver = QueryReceiver()
        self.shares = ClientShares(ShareSettings(lambda host: not host.startswith("198."), max_in_flight=100))
        self.factory = ListenerFactory(
            self.receiver,
            Resolver(servers=[("127.0.0.1", 1)], reactor=self.clock),
            clock=self.clock,
            now=self.clock.seconds,
            idle_timeout=10.0,
            max_connections=3,
            max_outstanding=4,
            share_of=lambda host: self.shares.share_of(host, self.clock.seconds()),
        )
        self.listener, self.transport = self.connect()

    def connect(self, host: str = "127.0.0.9") -> tuple[TcpConnection, Transport]:
        """
        A client connects.
        """
        listener = self.factory.buildProtocol(IPv4Address("TCP", host, 4711))
        assert listener is not None
        transport = Transport(host)
        transport.protocol = listener
        listener.makeConnection(transport)
        return listener, transport

    def asked(self) -> list[bytes]:
        """
        What was handed on so far.
        """
        return [octets for batch in self.receiver.batches for octets, _ in batch]


class StreamTests(StreamScene):
    """
    The life of a connection.
    """

    def test_queries_of_one_segment_are_one_batch(self) -> None:
        """
        With the client's address.
        """
        self.listener.dataReceived(frame(b"one") + frame(b"two") + b"\0")
        (((one, first), (two, second)),) = self.receiver.batches
        self.assertEqual((b"one", b"two"), (one, two))
        self.assertEqual([("127.0.0.9", 4711)] * 2, [(client.host, client.port) for client in (first, second)])
        self.assertTrue(self.listener.is_stream)

    def test_stream_may_arrive_in_any_pieces(self) -> None:
        """
        Octet by octet, too (RFC 7766 §8).
        """
        for octet in frame(b"one") + frame(b"two"):
            self.listener.dataReceived(bytes([octet]))
        self.assertEqual([b"one", b"two"], self.asked())

    def test_answers_ready_together_are_one_write(self) -> None:
        """
        Length and message, and messages that are ready together, go out in one write (RFC 7766 §8).
        """
        self.listener.dataReceived(frame(b"one") + frame(b"two"))
        self.listener.send_answers([(b"TWO", None), (b"ONE", None)])
        self.assertEqual([frame(b"TWO") + frame(b"ONE")], self.transport.writes)

    def test_answers_are_written_at_once(self) -> None:
        """
        Without a turn of the reactor; but for what is written while a connection ends, since how that goes is how it
        ends.
        """
        listener = self.factory.buildProtocol(None)
        transport = Transport()
        written: list[int] = []
        transport.doWrite = lambda: written.append(len(transport.writes))  # type: ignore[attr-defined]
        listener.makeConnection(transport)
        listener.dataReceived(frame(b"one") + frame(b"two"))
        listener.send_answers([(b"ONE", None)])
        self.assertEqual([1], written)
        listener.close()
        listener.send_answers([(b"TWO", None)])
        self.assertEqual(([1], 2), (written, len(transport.writes)))

    def test_queries_in_flight_are_limited(self) -> None:
        """
        Beyond the limit queries wait, and the client is not read from; responses make room again.
        """
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(6)))
        self.assertEqual([b"0", b"1", b"2", b"3"], self.asked())
        self.assertEqual("paused", self.transport.producerState)
        self.listener.send_answers([(b"x", None)])
        self.assertEqual(5, len(self.asked()))
        self.assertEqual("paused", self.transport.producerState)
        self.listener.send_answers([(b"x", None)] * 2)
        self.assertEqual(6, len(self.asked()))
        self.assertEqual("producing", self.transport.producerState)

    def test_queries_answered_synchronously_are_all_answered(self) -> None:
        """
        Responses during the hand-over of a batch lose no query, however many there are.
        """
        self.receiver.at_once = True
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(500)))
        self.assertEqual([b"%d" % n for n in range(500)], Deframer().feed(b"".join(self.transport.writes)))
        self.assertEqual("producing", self.transport.producerState)
        self.assertTrue(self.listener.is_idle)

    def test_dropped_query_takes_no_place(self) -> None:
        """
        A message without a response takes no place.
        """
        self.receiver.silent = 1
        for _ in range(10):
            self.listener.dataReceived(frame(b""))
        self.assertTrue(self.listener.is_idle)
        self.assertEqual("producing", self.transport.producerState)

    def test_client_that_does_not_read_is_paused_then_aborted(self) -> None:
        """
        While its responses are unread it is not read from; if that lasts, the connection is aborted.
        """
        self.listener.dataReceived(frame(b"one"))
        self.listener.pauseProducing()
        self.assertEqual("paused", self.transport.producerState)
        self.listener.dataReceived(frame(b"two"))
        self.assertEqual([b"one"], self.asked())
        self.listener.resumeProducing()
        self.assertEqual([b"one", b"two"], self.asked())
        self.assertEqual("producing", self.transport.producerState)
        self.listener.send_answers([(b"x", None)] * 2)
        self.listener.pauseProducing()
        self.clock.advance(9.9)
        self.assertFalse(self.transport.disconnected)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnected)

    def test_half_closed_connection_gets_its_responses_then_closes(self) -> None:
        """
        A client that has sent all its queries gets the responses, then the connection is closed (RFC 1035 §4.2.2).
        """
        self.assertTrue(IHalfCloseableProtocol.providedBy(self.listener))
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(5)))
        self.listener.readConnectionLost()
        self.listener.send_answers([(b"x", None)] * 4)
        self.assertFalse(self.transport.disconnecting)
        self.listener.send_answers([(b"x", None)])
        self.assertEqual(5, len(self.asked()))
        self.assertTrue(self.transport.disconnecting)

    def test_half_closed_connection_without_queries_is_closed_at_once(self) -> None:
        """
        A client that owes and is owed nothing is hung up on at once.
        """
        self.listener.readConnectionLost()
        self.assertTrue(self.transport.disconnecting)

    def test_client_that_closes_its_read_side_is_disconnected(self) -> None:
        """
        When the client closes the way to it, there is nothing left to do.
        """
        self.listener.writeConnectionLost()
        self.assertTrue(self.transport.disconnected)

    def test_idle_connection_is_closed(self) -> None:
        """
        Without a whole query it is closed; a partial one does not count (RFC 7766 §6.2.3).
        """
        self.clock.advance(6)
        self.listener.dataReceived(b"\0\x05ab")
        self.clock.advance(3.9)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnecting)

    def test_query_restarts_the_idle_timeout(self) -> None:
        """
        It does not run while a response is due.
        """
        self.clock.advance(6)
        self.listener.dataReceived(frame(b"one"))
        self.clock.advance(30)
        self.assertFalse(self.transport.disconnecting)
        self.listener.send_answers([(b"x", None)])
        self.clock.pump([1.0] * 12)
        self.assertTrue(self.transport.disconnecting)

    def test_close_not_answered_by_the_client_ends_in_an_abort(self) -> None:
        """
        Written data has a while to go out; then the connection is aborted, and closing twice changes nothing.
        """
        self.listener.close()
        self.listener.close()
        self.assertEqual((True, False), (self.transport.disconnecting, self.transport.disconnected))
        self.clock.advance(10)
        self.assertTrue(self.transport.disconnected)

    def test_responses_for_a_lost_connection_are_dropped(self) -> None:
        """
        RFC 7766 §6.2.4.
        """
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(6)))
        self.listener.connectionLost()
        self.listener.send_answers([(b"x", None)] * 4)
        self.assertEqual(([], 4), (self.transport.writes, len(self.asked())))
        self.assertEqual(([], 0), (self.clock.getDelayedCalls(), len(self.factory.connections)))
        self.listener.stopProducing()
        self.listener.close()
        self.listener.abort()

    def test_keepalive_option_is_answered_with_the_idle_timeout(self) -> None:
        """
        A client that asks how long the connection may be idle is told (RFC 7828 §3.3.2); one that does not is not.
        """
        asks = dns.message.make_query("www.test.", "A", use_edns=0, options=[dns.edns.GenericOption(11, b"")]).to_wire()
        other = dns.message.make_query("www.test.", "A", use_edns=0, options=[dns.edns.GenericOption(3, b"")]).to_wire()
        self.assertEqual(b"\0\x0b\0\2\0\x64", self.listener.options_for(asks, parse_query(asks), None))
        self.assertEqual(b"", self.listener.options_for(other, parse_query(other), None))
        self.factory.tells_idle_timeout = False
        self.assertEqual(b"", self.listener.options_for(asks, parse_query(asks), None))

    def test_response_of_many_messages_counts_once(self) -> None:
        """
        Parts go out as they come, in one write, and count as one answer, which is owed until the last has come.
        """
        source = Source()
        self.listener.dataReceived(frame(b"zone"))
        self.listener.begin_parts(source)
        self.listener.send_parts([b"one", b"two"], source)
        self.assertEqual([frame(b"one") + frame(b"two")], self.transport.writes)
        self.clock.pump([1.0] * 30)
        self.assertFalse(self.listener.is_idle)
        self.assertFalse(self.transport.disconnecting)
        self.listener.send_answers([(b"three", None)])
        self.listener.end_parts(source)
        self.assertTrue(self.listener.is_idle)

    def test_messages_of_a_transfer_keep_the_connection_alive(self) -> None:
        """
        A connection over which parts of an answer go is not idle; they are not counted as answers.
        """
        source = Source()
        self.listener.begin_parts(source)
        self.clock.advance(6)
        self.listener.send_parts([b"part", b"another"], source)
        self.assertEqual([frame(b"part") + frame(b"another")], self.transport.writes)
        self.clock.advance(9.9)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnecting)

    def test_messages_for_a_lost_connection_are_dropped(self) -> None:
        """
        They go nowhere.
        """
        self.listener.connectionLost()
        self.listener.send_parts([b"part"], Source())
        self.assertEqual([], self.transport.writes)

    def test_source_of_a_transfer_is_paused_while_the_client_does_not_read(self) -> None:
        """
        Parts come no faster than the client reads, and not at all once it has gone.
        """
        source, later = Source(), Source()
        self.listener.dataReceived(frame(b"zone"))
        self.listener.begin_parts(source)
        self.listener.pauseProducing()
        self.listener.begin_parts(later)
        self.listener.resumeProducing()
        self.listener.end_parts(later)
        self.listener.connectionLost()
        self.listener.send_parts([b"late"], source)
        self.assertEqual((["pause", "resume", "gone"], ["pause", "resume"]), (source.told, later.told))
        self.assertEqual([], self.transport.writes)

    def test_longest_idle_connection_makes_room_for_a_new_one(self) -> None:
        """
        RFC 9210 §4.2; if all are in use the new one is refused.
        """
        self.clock.advance(1)
        second, second_transport = self.connect()
        self.clock.advance(1)
        third, third_transport = self.connect()
        self.listener.dataReceived(frame(b"busy"))
        fourth, _ = self.connect()
        self.assertEqual(
            (False, True, False),
            (self.transport.disconnected, second_transport.disconnected, third_transport.disconnected),
        )
        third.dataReceived(frame(b"busy"))
        fourth.dataReceived(frame(b"busy"))
        self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.9", 1)))
        self.assertEqual(
            {ClientEnd.EVICTED: 1, ClientEnd.REFUSED: 1},
            {end: count for end, count in self.factory.ended_counts.items() if count},
        )
        second.connectionLost()
        self.assertEqual(3, len(self.factory.connections))

    def test_client_with_most_connections_makes_room(self) -> None:
        """
        A client that has all connections, each in use, does not keep others out.
        """
        for listener in (self.listener, *(self.connect()[0] for _ in range(2))):
            listener.dataReceived(frame(b"owed"))
        other, _ = self.connect("127.0.0.10")
        self.assertTrue(self.transport.disconnected)
        other.dataReceived(frame(b"asked"))
        self.assertEqual(b"asked", self.asked()[-1])

    def test_connection_with_a_partial_query_is_idle(self) -> None:
        """
        A connection with a query that never becomes whole makes room for others.
        """
        self.connect()
        self.connect()
        self.listener.dataReceived(b"\0\x20" + b"x" * 31)
        self.assertTrue(self.listener.is_idle)
        self.connect()
        self.assertTrue(self.transport.disconnected)


LARGE = b"L" * 60_000


class FullBuffers:
    """
    A transport that takes as much as it is told, and is not read from: as a TCP connection whose client does not read.
    """

    def __init__(self, transport: Transport, room: int) -> None:
        self.transport = transport
        self.room = room
        self.written = 0
        self.producer: Any = None
        transport.registerProducer = self.register  # type: ignore[method-assign]
        transport.unregisterProducer = self.unregister  # type: ignore[method-assign]
        transport.write = self.write  # type: ignore[method-assign]

    def register(self, producer: Any, streaming: bool) -> None:
        """
        Called by the listener.
        """
        self.producer = producer

    def unregister(self) -> None:
        """
        Called by the listener; nothing is paused from now on.
        """
        self.producer = None

    def write(self, data: bytes) -> None:
        """
        Called by the listener; says that it is full, as often as it is.
        """
        self.transport.writes.append(data)
        self.written += len(data)
        if self.written > self.room and self.producer is not None:
            self.producer.pauseProducing()

    def read(self) -> None:
        """
        The client reads all there is.
        """
        self.written = 0
        self.producer.resumeProducing()


class WindowTests(StreamScene):
    """
    How many queries of a connection are in flight.
    """

    def setUp(self) -> None:
        """
        Forty may be.
        """
        super().setUp()
        self.factory.max_outstanding = 40

    def in_flight(self, listener: TcpConnection) -> int:
        """
        How many are, if as many as possible are asked.
        """
        before = len(self.asked())
        listener.dataReceived(frame(b"query") * 100)
        return len(self.asked()) - before

    def test_window_grows_with_responses_read(self) -> None:
        """
        Four at first; one more with each response that the client reads, up to the limit.
        """
        self.assertEqual(INITIAL_WINDOW, self.in_flight(self.listener))
        self.listener.send_answers([(b"response", None)] * 4)
        self.assertEqual(4 + 8, len(self.asked()))
        for _ in range(3):
            self.listener.send_answers([(b"response", None)] * self.listener._outstanding)
        self.assertEqual(40, self.listener._outstanding)

    def test_window_does_not_grow_with_unread_responses(self) -> None:
        """
        Responses that wait for the client change nothing.
        """
        self.in_flight(self.listener)
        self.listener.pauseProducing()
        self.listener.send_answers([(b"response", None)] * 4)
        self.listener.resumeProducing()
        self.assertEqual(4 + 4, len(self.asked()))

    def test_window_of_zero_after_the_drain_reads_no_queries(self) -> None:
        """
        When no more may be outstanding, as at the end of a drain, responses are followed by no more queries.
        """
        self.in_flight(self.listener)
        self.factory.max_outstanding = 0
        self.listener.send_answers([(b"response", None)] * 4)
        self.assertEqual(4, len(self.asked()))

    def test_client_with_an_aborted_connection_starts_with_one_query(self) -> None:
        """
        After a connection was ended since too much was unread, others of the client begin with one query, and those of
        another client with four; half a minute later all is as before.
        """
        self.in_flight(self.listener)
        self.listener.pauseProducing()
        self.listener.send_answers([(bytes(60_000), None)] * 40)
        self.assertTrue(self.transport.disconnected)
        listener, _ = self.connect()
        self.assertEqual(1, self.in_flight(listener))
        other, _ = self.connect("127.0.0.10")
        self.assertEqual(4, self.in_flight(other))
        self.clock.advance(31)
        late, _ = self.connect()
        self.assertEqual(4, self.in_flight(late))


class UnreadTests(StreamScene):
    """
    Clients that do not read.
    """

    def setUp(self) -> None:
        """
        As many queries may be outstanding as is usual, and many connections be open.
        """
        super().setUp()
        self.factory.max_outstanding = 128
        self.factory.max_connections = 1000

    def connect_full(self, room: int = 100_000, host: str = "127.0.0.9") -> tuple[TcpConnection, FullBuffers]:
        """
        A client connects that reads when it is told, beyond what buffers take.
        """
        listener = self.factory.buildProtocol(IPv4Address("TCP", host, 4711))
        assert listener is not None
        transport = Transport(host)
        transport.protocol = listener
        buffers = FullBuffers(transport, room)
        listener.makeConnection(transport)
        return listener, buffers

    def test_batches_grow_while_responses_are_small(self) -> None:
        """
        Queries are handed on a few at a time, more as long as responses are small.
        """
        self.receiver.at_once = True
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(128)))
        self.assertEqual([4, 8, 16, 32, 32, 32, 4], [len(batch) for batch in self.receiver.batches])

    def test_unread_large_responses_hold_back_queries(self) -> None:
        """
        Of 128 queries for 60 KB each, those are handed on of which the responses find room, and a few more.
        """
        self.receiver.answer = LARGE
        listener, buffers = self.connect_full(room=300_000)
        listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(128)))
        self.assertEqual([4, 1], [len(batch) for batch in self.receiver.batches])
        self.assertLess(buffers.written, 400_000)
        self.assertEqual("paused", buffers.transport.producerState)
        buffers.read()
        self.assertEqual([4, 1, 1, 1, 1, 1, 1], [len(batch) for batch in self.receiver.batches])

    def test_responses_wait_until_the_client_reads(self) -> None:
        """
        Responses that come while the client does not read go to it in their order, once it reads; it is read from when
        all of them have gone.
        """
        listener, buffers = self.connect_full(room=10)
        listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(4)))
        for number in range(4):
            listener.send_answers([(b"%d" % number * 40_000, None)])
        self.assertEqual(1, len(buffers.transport.writes))
        self.assertEqual(4 * 40_002, self.factory.unread_responses.total)
        self.assertEqual(4 * 40_002, self.shares.share_of("127.0.0.9", 0).unread)
        buffers.read()
        self.assertEqual((2, "paused"), (len(buffers.transport.writes), buffers.transport.producerState))
        buffers.room = 1 << 20
        buffers.read()
        self.assertEqual("producing", buffers.transport.producerState)
        sent = Deframer().feed(b"".join(buffers.transport.writes))
        self.assertEqual([b"%d" % number * 40_000 for number in range(4)], sent)
        self.assertEqual((0, 0), (self.factory.unread_responses.total, self.shares.share_of("127.0.0.9", 0).unread))

    def test_too_many_unread_octets_abort_the_connection(self) -> None:
        """
        Responses of upstreams to a client that does not read are kept up to a limit; then the connection is aborted, and
        nothing is left of them.
        """
        listener, buffers = self.connect_full(room=10)
        listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(128)))
        kept = 0
        while not buffers.transport.disconnected:
            self.assertLess(kept, 40)
            listener.send_answers([(LARGE, None)])
            kept += 1
        self.assertEqual(MAX_UNREAD_PER_CONNECTION // len(LARGE) + 1, kept)
        self.assertEqual((0, 1), (self.factory.unread_responses.total, self.factory.ended_counts[ClientEnd.UNREAD]))
        self.assertEqual(1, len(buffers.transport.writes))
        listener.send_answers([(LARGE, None)])
        self.assertEqual((0, 1), (self.factory.unread_responses.total, len(buffers.transport.writes)))

    def test_too_many_unread_octets_in_all_abort_those_of_the_client_with_most(self) -> None:
        """
        When clients together do not read too much, the client with most loses connections, those with most first.
        """
        other, other_buffers = self.connect_full(room=10, host="127.0.0.10")
        other.dataReceived(frame(b"asked") * 8)
        other.send_answers([(LARGE, None)] * 8)
        hostile = [self.connect_full(room=10) for _ in range(200)]
        for listener, _ in hostile:
            listener.dataReceived(frame(b"asked") * 4)
            listener.send_answers([(LARGE, None)] * 4)
            self.assertLessEqual(self.factory.unread_responses.total, MAX_UNREAD_TOTAL)
        ended = [buffers.transport.disconnected for _, buffers in hostile]
        self.assertEqual(self.factory.ended_counts[ClientEnd.UNREAD_IN_ALL], sum(ended))
        self.assertTrue(60 < sum(ended) < 120, sum(ended))
        self.assertFalse(other_buffers.transport.disconnected)
        for listener, _ in (*hostile, (other, other_buffers)):
            listener.connectionLost()
        self.assertEqual((0, 0), (self.factory.unread_responses.total, self.shares.share_of("127.0.0.9", 0).unread))

    def test_response_larger_than_the_buffer_holds_nothing_up(self) -> None:
        """
        A response larger than the transport's buffer that goes out at once holds nothing up.
        """
        listener = self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.9", 4711))
        assert listener is not None
        transport = Transport()
        buffers = FullBuffers(transport, 10)
        transport.doWrite = buffers.read  # type: ignore[attr-defined]
        source = Source()
        self.receiver.answer = LARGE
        listener.makeConnection(transport)
        listener.begin_parts(source)
        listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(20)))
        self.assertEqual(20, len(self.asked()))
        self.assertEqual(20 * len(frame(LARGE)), sum(map(len, transport.writes)))
        self.assertEqual(([], 0), (source.told, self.factory.unread_responses.total))

    def test_pending_responses_are_written_before_the_close(self) -> None:
        """
        What was kept for it is written before the connection is closed.
        """
        listener, buffers = self.connect_full(room=10)
        listener.dataReceived(frame(b"asked") * 3)
        for octet in (b"1", b"2", b"3"):
            listener.send_answers([(octet * 100, None)])
        listener.close()
        self.assertTrue(buffers.transport.disconnecting)
        sent = Deframer().feed(b"".join(buffers.transport.writes))
        self.assertEqual([b"1" * 100, b"2" * 100, b"3" * 100], sent)

    def test_response_after_a_close_while_the_client_does_not_read(self) -> None:
        """
        It is written after those that were kept, not kept for a client that is never waited for again.
        """
        listener, buffers = self.connect_full(room=10)
        listener.dataReceived(frame(b"asked") * 3)
        for octet in (b"1", b"2"):
            listener.send_answers([(octet * 100, None)])
        listener.close()
        self.patch(buffers.transport, "resumeProducing", lambda: None)  # as sockets do after loseConnection
        listener.send_answers([(b"3" * 100, None)])
        sent = Deframer().feed(b"".join(buffers.transport.writes))
        self.assertEqual([b"1" * 100, b"2" * 100, b"3" * 100], sent)

    def test_transfer_messages_wait_until_the_client_reads(self) -> None:
        """
        What comes of a zone after its source was held up is kept, and counted.
        """
        listener, buffers = self.connect_full(room=10)
        source = Source()
        listener.dataReceived(frame(b"zone"))
        listener.begin_parts(source)
        listener.send_parts([b"one" * 10], source)
        listener.send_parts([b"two", b"three"], source)
        self.assertEqual((["pause"], [frame(b"one" * 10)]), (source.told, buffers.transport.writes))
        self.assertEqual(32 + 5 + 7, self.factory.unread_responses.total)
        buffers.room = 1000
        buffers.read()
        self.assertEqual(["pause", "resume"], source.told)
        self.assertEqual(frame(b"two") + frame(b"three"), buffers.transport.writes[-1])

    def test_overlong_message_is_kept_up_to_the_limit_only(self) -> None:
        """
        Of a message of 60,000 octets only so much is kept as shows that it is too long; that is handed on.
        """
        stream = frame(LARGE) * 2 + frame(b"next")
        for at in range(0, len(stream), 16_384):
            self.listener.dataReceived(stream[at : at + 16_384])
            self.assertLess(self.listener._deframer.kept, 16_384 + MAX_QUERY)
        self.assertEqual([LARGE[: MAX_QUERY + 1]] * 2 + [b"next"], self.asked())

    def test_connection_past_its_time_waits_for_the_next_iteration(self) -> None:
        """
        Connections that have had their time wait for the next iteration, and are not read from.
        """
        self.receiver.at_once = True
        self.receiver.takes = lambda: self.clock.advance(0.002)
        other, other_transport = self.connect("127.0.0.10")
        self.listener.dataReceived(frame(b"a") * 12)
        other.dataReceived(frame(b"b") * 12)
        self.assertEqual([b"a"] * 12, self.asked())
        self.assertEqual("paused", other_transport.producerState)
        self.assertFalse(other.is_idle)
        self.clock.advance(0)
        self.assertEqual([b"b"] * 12, self.asked()[12:])
        self.assertEqual("producing", other_transport.producerState)

    def test_connection_lost_before_its_turn_is_dropped(self) -> None:
        """
        Nothing of it is handed on, and the reactor is not kept busy.
        """
        self.receiver.takes = lambda: self.clock.advance(0.004)
        other, _ = self.connect("127.0.0.10")
        self.listener.dataReceived(frame(b"a"))
        other.dataReceived(frame(b"b"))
        other.connectionLost()
        self.listener.connectionLost()
        self.clock.advance(0)
        self.assertEqual(([b"a"], []), (self.asked(), self.clock.getDelayedCalls()))
