"""
The UDP listener: queries to the receiver, responses to the port.
"""

from collections import Counter
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.udp import UdpListener
from dotproxy.errors import ShedReason
from dotproxy.policy.client import Client
from dotproxy.telemetry.counters import UDP
from dotproxy.testing.client import make_query
from dotproxy.testing.zone import A
from dotproxy.wire.message import parse_query

QUERY = make_query("www.test.", A)
CLIENT, OTHER = Client("192.0.2.1", 4000), Client("192.0.2.2", 4001)


class ListenerTests(SynchronousTestCase):
    """
    A listener between a port and a receiver of the test.
    """

    def setUp(self) -> None:
        self.batches: list[tuple[Any, Any]] = []
        self.sent: list[Any] = []
        self.counters = SimpleNamespace(shed=Counter())
        self.listener = self.make()

    def make(self, cookie_for: Any = None) -> UdpListener:
        factory = SimpleNamespace(
            handle_batch=lambda listener, batch: self.batches.append((listener, batch)), counters=self.counters
        )
        listener = UdpListener(factory, Clock(), cookie_for)
        listener.transport = SimpleNamespace(write_batch=self.sent.append, queue_delay=0.125)
        return listener

    def test_is_neither_stream_nor_takes_transfers(self) -> None:
        """
        Its responses are datagrams.
        """
        listener = self.listener
        self.assertEqual((UDP, False, False), (listener.kind, listener.is_stream, listener.takes_transfers))

    def test_batches_are_handed_on(self) -> None:
        """
        Unchanged; a datagram of a port without batches is a batch of one.
        """
        batch = [(QUERY, CLIENT), (b"", OTHER)]
        self.listener.datagrams_received(batch)
        self.listener.datagramReceived(QUERY, ("192.0.2.2", 4001))
        self.assertEqual((self.listener, batch), self.batches[0])
        listener, ((octets, client),) = self.batches[1]
        self.assertEqual((self.listener, QUERY), (listener, octets))
        self.assertEqual(("192.0.2.2", 4001), (client.host, client.port))

    def test_answers_are_sent_together(self) -> None:
        """
        All responses go in one call; none once the port is closed.
        """
        answers = [(b"one", CLIENT), (b"two", OTHER)]
        self.listener.send_answers(answers)
        self.assertEqual([answers], self.sent)
        self.listener.transport = None
        self.listener.send_answers(answers)
        self.assertEqual(1, len(self.sent))

    def test_responses_may_be_limited(self) -> None:
        """
        ``limit_responses`` selects those that are sent.
        """
        self.listener.limit_responses = lambda answers: answers[1:]
        self.listener.send_answers([(b"one", CLIENT), (b"two", OTHER)])
        self.assertEqual([[(b"two", OTHER)]], self.sent)

    def test_cookies(self) -> None:
        """
        The option depends on the query and the client's address; without cookies there is none.
        """
        seen = parse_query(QUERY)
        self.assertEqual(b"", self.listener.options_for(QUERY, seen, CLIENT))
        listener = self.make(lambda query, seen, host: query[:2] + host.encode())
        self.assertEqual(QUERY[:2] + b"192.0.2.1", listener.options_for(QUERY, seen, CLIENT))

    def test_dropped_datagrams_are_counted(self) -> None:
        """
        As ``ShedReason.TOO_OLD``.
        """
        self.listener.datagrams_dropped(3)
        self.listener.datagrams_dropped(2)
        self.assertEqual({ShedReason.TOO_OLD: 5}, dict(self.counters.shed))

    def test_queue_delay_is_the_ports(self) -> None:
        """
        It is 0.0 on a port of Twisted's, which has none.
        """
        self.assertEqual(0.125, self.listener.queue_delay)
        self.listener.transport = object()
        self.assertEqual(0.0, self.listener.queue_delay)
