"""
One TCP client.
"""

from collections.abc import Iterable
from typing import Any

import dns.edns
import dns.message
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.names.client import Resolver
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.factory import ListenerFactory
from dotproxy.downstream.stream import StreamListener
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import peek


class Transport(StringTransport):
    """
    A TCP transport that notes what is done to it.
    """

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "127.0.0.9", 4711))
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


class Asker:
    """
    A forwarder in whose place a test answers.
    """

    def __init__(self) -> None:
        self.batches: list[list[tuple[bytes, Any]]] = []
        self.silent = 0
        self.at_once = False

    def questions_received(self, listener: Any, batch: Iterable[tuple[bytes, Any]]) -> int:
        """
        Called by the listener.
        """
        questions = list(batch)
        self.batches.append(questions)
        if self.at_once:
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


class StreamTests(SynchronousTestCase):
    """
    The life of a connection.
    """

    def setUp(self) -> None:
        """
        A client, connected.
        """
        self.clock = Clock()
        self.asker = Asker()
        self.factory = ListenerFactory(
            self.asker,
            Resolver(servers=[("127.0.0.1", 1)], reactor=self.clock),
            clock=self.clock,
            now=self.clock.seconds,
            idle_timeout=10.0,
            max_connections=3,
            max_outstanding=4,
        )
        self.listener, self.transport = self.connect()

    def connect(self) -> tuple[StreamListener, Transport]:
        """
        A client connects.
        """
        listener = self.factory.buildProtocol(None)
        assert listener is not None
        transport = Transport()
        transport.protocol = listener
        listener.makeConnection(transport)
        return listener, transport

    def asked(self) -> list[bytes]:
        """
        What was handed on so far.
        """
        return [octets for batch in self.asker.batches for octets, _ in batch]

    def test_questions_are_handed_on(self) -> None:
        """
        Questions in one segment are one batch, with the client's address.
        """
        self.listener.dataReceived(frame(b"one") + frame(b"two") + b"\0")
        client = ("127.0.0.9", 4711)
        self.assertEqual([[(b"one", client), (b"two", client)]], self.asker.batches)
        self.assertTrue(self.listener.is_stream)

    def test_any_cut(self) -> None:
        """
        A stream may come octet by octet (RFC 7766 §8).
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

    def test_only_so_many_outstanding(self) -> None:
        """
        Beyond the limit questions wait, and the client is not read from; answers make room again.
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

    def test_questions_answered_at_once(self) -> None:
        """
        Answers that come while questions are being handed on lose none of them, however many there are.
        """
        self.asker.at_once = True
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(500)))
        self.assertEqual([b"%d" % n for n in range(500)], Deframer().feed(b"".join(self.transport.writes)))
        self.assertEqual("producing", self.transport.producerState)
        self.assertTrue(self.listener.is_idle)

    def test_what_is_never_answered_is_not_waited_for(self) -> None:
        """
        A message that deserves no answer takes no place.
        """
        self.asker.silent = 1
        for _ in range(10):
            self.listener.dataReceived(frame(b""))
        self.assertTrue(self.listener.is_idle)
        self.assertEqual("producing", self.transport.producerState)

    def test_a_client_that_does_not_read(self) -> None:
        """
        While its answers pile up a client is not read from; if that lasts, the connection is cut.
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

    def test_half_close_with_answers_owed(self) -> None:
        """
        A client that has asked all it will gets its answers, and is then hung up on (RFC 1035 §4.2.2).
        """
        self.assertTrue(IHalfCloseableProtocol.providedBy(self.listener))
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(5)))
        self.listener.readConnectionLost()
        self.listener.send_answers([(b"x", None)] * 4)
        self.assertFalse(self.transport.disconnecting)
        self.listener.send_answers([(b"x", None)])
        self.assertEqual(5, len(self.asked()))
        self.assertTrue(self.transport.disconnecting)

    def test_half_close_with_nothing_owed(self) -> None:
        """
        A client that owes and is owed nothing is hung up on at once.
        """
        self.listener.readConnectionLost()
        self.assertTrue(self.transport.disconnecting)

    def test_a_client_that_takes_no_more(self) -> None:
        """
        When the client closes the way to it, there is nothing left to do.
        """
        self.listener.writeConnectionLost()
        self.assertTrue(self.transport.disconnected)

    def test_idle(self) -> None:
        """
        A connection over which no whole question comes is closed; a part of one does not count (RFC 7766 §6.2.3).
        """
        self.clock.advance(6)
        self.listener.dataReceived(b"\0\x05ab")
        self.clock.advance(3.9)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnecting)

    def test_not_idle(self) -> None:
        """
        A question restarts the clock, and while an answer is owed it does not run.
        """
        self.clock.advance(6)
        self.listener.dataReceived(frame(b"one"))
        self.clock.advance(30)
        self.assertFalse(self.transport.disconnecting)
        self.listener.send_answers([(b"x", None)])
        self.clock.pump([1.0] * 12)
        self.assertTrue(self.transport.disconnecting)

    def test_a_close_the_client_does_not_join_in(self) -> None:
        """
        What was written has a while to go out; then the connection is cut, and closing twice changes nothing.
        """
        self.listener.close()
        self.listener.close()
        self.assertEqual((True, False), (self.transport.disconnecting, self.transport.disconnected))
        self.clock.advance(10)
        self.assertTrue(self.transport.disconnected)

    def test_answers_for_a_client_that_is_gone(self) -> None:
        """
        They are dropped (RFC 7766 §6.2.4), and nothing is left behind.
        """
        self.listener.dataReceived(b"".join(frame(b"%d" % n) for n in range(6)))
        self.listener.connectionLost()
        self.listener.send_answers([(b"x", None)] * 4)
        self.assertEqual(([], 4), (self.transport.writes, len(self.asked())))
        self.assertEqual(([], []), (self.clock.getDelayedCalls(), self.factory.connections))
        self.listener.stopProducing()
        self.listener.close()
        self.listener.abort()

    def test_how_long_it_may_be_idle(self) -> None:
        """
        A client that asks how long the connection may be idle is told (RFC 7828 §3.3.2); one that does not is not.
        """
        asks = dns.message.make_query("www.test.", "A", use_edns=0, options=[dns.edns.GenericOption(11, b"")]).to_wire()
        other = dns.message.make_query("www.test.", "A", use_edns=0, options=[dns.edns.GenericOption(3, b"")]).to_wire()
        self.assertEqual(b"\0\x0b\0\2\0\x64", self.listener.options_for(asks, peek(asks), None))
        self.assertEqual(b"", self.listener.options_for(other, peek(other), None))
        self.factory.tells_idle_timeout = False
        self.assertEqual(b"", self.listener.options_for(asks, peek(asks), None))

    def test_answers_of_many_messages(self) -> None:
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

    def test_a_source_is_held_up(self) -> None:
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

    def test_one_too_many_connections(self) -> None:
        """
        The client idle longest makes room for a new one (RFC 9210 §4.2); if all are busy the new one is refused.
        """
        self.clock.advance(1)
        second, second_transport = self.connect()
        self.clock.advance(1)
        third, _ = self.connect()
        self.listener.dataReceived(frame(b"busy"))
        self.assertIsNotNone(self.factory.buildProtocol(None))
        self.assertEqual((False, True), (self.transport.disconnected, second_transport.disconnected))
        second.dataReceived(frame(b"busy"))
        third.dataReceived(frame(b"busy"))
        self.assertIsNone(self.factory.buildProtocol(None))
