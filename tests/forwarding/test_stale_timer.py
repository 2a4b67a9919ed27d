"""
When a client that could have a stale response has waited long enough.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.forwarding.inflight import Query
from dotproxy.forwarding.stale_timer import StaleTimer
from dotproxy.testing.client import make_query
from dotproxy.testing.zone import A
from dotproxy.wire.message import parse_query
from tests.forwarding.test_inflight import request_of


class StaleTimerTests(SynchronousTestCase):
    """
    1.8 s after each was asked (RFC 8767 §5).
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.served: list[tuple[float, list[Query]]] = []
        self.timer = StaleTimer(
            self.clock, self.clock.seconds, lambda queries: self.served.append((self.clock.seconds(), list(queries)))
        )

    def add(self, name: str = "a", *, is_waited_for: bool = True) -> None:
        octets, now = make_query(f"{name}.test.", A), self.clock.seconds()
        query = Query(octets, parse_query(octets), octets, (0,), now, now + 4.0, name.encode())
        query.waiting += [request_of(octets)] * is_waited_for
        self.timer.add(query)

    def names(self) -> list[list[str]]:
        return [[query.key.decode() for query in queries] for _, queries in self.served]

    def test_stale_is_due_once_after_1_8_seconds(self) -> None:
        """
        Not earlier, and once.
        """
        self.add()
        self.clock.advance(1.79)
        self.assertEqual([], self.served)
        self.clock.advance(0.01)
        self.assertEqual([["a"]], self.names())
        self.clock.advance(10)
        self.assertEqual(1, len(self.served))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_each_query_is_due_after_its_own_1_8_seconds(self) -> None:
        """
        One timer serves all; each has its own 1.8 s.
        """
        self.add("a")
        self.clock.advance(1.0)
        self.add("b")
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.clock.advance(0.8)
        self.assertEqual([["a"]], self.names())
        self.clock.advance(0.99)
        self.assertEqual(1, len(self.served))
        self.clock.advance(0.02)
        self.assertEqual([["a"], ["b"]], self.names())

    def test_queries_within_20_ms_are_served_together(self) -> None:
        """
        A difference of 20 ms saves a timer for each.
        """
        self.add("a")
        self.clock.advance(0.015)
        self.add("b")
        self.clock.advance(0.01)
        self.add("c")
        self.clock.advance(1.8 - 0.025)
        self.assertEqual([["a", "b"]], self.names())

    def test_answered_queries_need_no_timer(self) -> None:
        """
        Once one is due, those before it that were answered meanwhile are dropped.
        """
        self.add("a")
        self.clock.advance(0.5)
        self.add("b", is_waited_for=False)
        self.clock.advance(0.5)
        self.add("c")
        self.clock.advance(0.8)
        self.assertEqual(2.8, self.clock.getDelayedCalls()[0].getTime())
        self.clock.advance(1.0)
        self.assertEqual([["a"], ["c"]], self.names())

    def test_stop_leaves_no_timer_and_allows_reuse(self) -> None:
        """
        Nothing is served any more, no timer is left, and it can be used again.
        """
        self.add("a")
        self.timer.stop()
        self.timer.stop()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.add("b")
        self.clock.advance(1.8)
        self.assertEqual([["b"]], self.names())
