"""
Dials under way: how many, how long, and what is told of them.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Unreachable, UpstreamError
from dotproxy.upstream.dialer import Dialer


class Connection:
    """
    A connection that may have ended already.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open


class DialTests(SynchronousTestCase):
    """
    An endpoint of which each dial is a Deferred that the test holds.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.dialled: list[Deferred[Any]] = []
        self.cancelled = 0
        self.connected: list[tuple[Any, float]] = []
        self.failed: list[UpstreamError] = []
        self.slow = 0
        self.dialer = Dialer(
            self,
            clock=self.clock,
            now=self.clock.seconds,
            build=Connection,
            connected=lambda connection, seconds: self.connected.append((connection, seconds)),
            failed=self.failed.append,
            slow=self.note_slow,
        )

    def connect(self, factory: Any) -> "Deferred[Any]":
        """
        Called as an endpoint.
        """
        self.dialled.append(Deferred(self.note_cancelled))
        return self.dialled[-1]

    def note_cancelled(self, dial: object) -> None:
        self.cancelled += 1

    def note_slow(self) -> None:
        self.slow += 1

    def test_dials_are_started_up_to_the_wanted_number(self) -> None:
        """
        Dials under way count.
        """
        self.dialer.dial(2)
        self.assertEqual((2, 2), (len(self.dialer), len(self.dialled)))
        self.dialer.dial(2)
        self.dialer.dial(1)
        self.assertEqual(2, len(self.dialled))
        self.dialer.dial(3)
        self.assertEqual(3, len(self.dialled))

    def test_connected_dial_reports_its_time_and_leaves_no_timer(self) -> None:
        """
        The time it took is reported; the dial and its timer have ended.
        """
        self.dialer.dial(1)
        self.clock.advance(0.2)
        connection = Connection()
        self.dialled[0].callback(connection)
        self.assertEqual([(connection, 0.2)], self.connected)
        self.assertEqual((0, []), (len(self.dialer), self.clock.getDelayedCalls()))

    def test_connection_lost_within_its_dial_is_not_reported_as_connected(self) -> None:
        """
        The connection itself tells that it was lost.
        """
        self.dialer.dial(1)
        self.dialled[0].callback(Connection(is_open=False))
        self.assertEqual(([], 0), (self.connected, len(self.dialer)))

    def test_failed_dial_is_reported_as_an_upstream_error(self) -> None:
        """
        An error of ours is passed on, any other is reported as an unreachable upstream.
        """
        self.dialer.dial(2)
        error = Unreachable("tls", "no")
        self.dialled[0].errback(error)
        self.dialled[1].errback(OSError("no route"))
        self.assertIs(error, self.failed[0])
        self.assertIsInstance(self.failed[1], Unreachable)
        self.assertEqual(("connect", "no route"), (self.failed[1].phase, self.failed[1].reason))
        self.assertEqual((0, []), (len(self.dialer), self.clock.getDelayedCalls()))

    def test_dial_is_reported_slow_after_a_quarter_of_a_second(self) -> None:
        """
        It is reported once, and not after the dial has ended.
        """
        self.dialer.dial(1)
        self.clock.advance(0.249)
        self.assertEqual((0, False), (self.slow, self.dialer.is_slow))
        self.clock.advance(0.001)
        self.assertEqual((1, True), (self.slow, self.dialer.is_slow))
        self.clock.advance(10)
        self.assertEqual(1, self.slow)
        self.dialled[0].errback(Unreachable("connect", "no"))
        self.assertFalse(self.dialer.is_slow)

    def test_cancelled_dials_report_nothing_and_allow_new_ones(self) -> None:
        """
        All are cancelled without a report, and others can be started.
        """
        self.dialer.dial(2)
        self.dialer.cancel_all()
        self.assertEqual((2, 0), (self.cancelled, len(self.dialer)))
        self.assertEqual(([], [], []), (self.connected, self.failed, self.clock.getDelayedCalls()))
        self.dialer.dial(1)
        self.assertEqual(3, len(self.dialled))
