"""
Whether an upstream is up, and when operators are told.
"""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionGone, Unreachable
from dotproxy.upstream.availability import LEARNED_LATER, Availability

from .scenes import Heard

REFUSED = Unreachable("connect", "refused")
GONE = ConnectionGone("read", "gone")


class Noted(Heard):
    """
    Dials that failed are kept, too.
    """

    def dial_failed(self, upstream: Any, error: Any) -> None:
        self.events.append(("dial failed", upstream, error))


class AvailabilityTests(SynchronousTestCase):
    """
    Failures, and what ends them.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100.0)
        self.events = Noted()
        self.availability = Availability("one", self.events, now=self.clock.seconds, jitter=lambda: 0.0)

    def test_an_outage_is_reported_once(self) -> None:
        """
        Each failed dial is an event; only the first begins the outage.
        """
        self.assertEqual([True, False, False], [self.availability.note_failure(REFUSED) for _ in range(3)])
        self.assertFalse(self.availability.health.is_up)
        self.assertEqual(
            [("dial failed", "one", REFUSED)] * 3, [e for e in self.events.events if e[0] == "dial failed"]
        )
        self.assertEqual(["down"], self.events.states())

    def test_second_lost_connection_in_a_row_begins_an_outage(self) -> None:
        """
        One lost connection alone is no outage.
        """
        self.assertTrue(self.availability.note_failure(GONE))
        self.assertEqual([], self.events.states())
        self.assertTrue(self.availability.note_reply())
        self.assertEqual([], self.events.states())
        self.availability.note_failure(GONE)
        self.assertFalse(self.availability.note_failure(GONE))
        self.assertEqual(["down"], self.events.states())

    def test_end_of_an_outage_is_reported_once_with_its_length(self) -> None:
        """
        Since the first failure, and how many there were; each outage has one end.
        """
        self.availability.note_failure(REFUSED)
        self.clock.advance(5.0)
        self.availability.note_failure(REFUSED)
        self.clock.advance(2.0)
        self.assertTrue(self.availability.note_connected())
        self.assertEqual(("up", 7.0, 2), self.events.events[-1])
        self.assertFalse(self.availability.note_reply())
        self.assertEqual(["down", "up"], self.events.states())
        self.availability.note_failure(REFUSED)
        self.assertEqual(["down", "up", "down"], self.events.states())

    def test_outage_seen_by_another_worker_is_not_reported(self) -> None:
        """
        That worker reports it; the next dial here is due half a second later than its own.
        """
        self.assertEqual(0.5, LEARNED_LATER)
        self.assertTrue(self.availability.learn_failure(REFUSED))
        self.assertFalse(self.availability.learn_failure(REFUSED))
        self.assertFalse(self.availability.health.is_up)
        self.assertTrue(self.availability.note_connected())
        self.assertEqual([], self.events.events)

    def test_outage_is_recent_for_ten_seconds(self) -> None:
        """
        For ten seconds from its first failure, or from when earlier failures said nothing any more.
        """
        for learn in (self.availability.note_failure, self.availability.learn_failure):
            self.availability.note_reply()
            learn(REFUSED)
            self.clock.advance(9.9)
            self.assertTrue(self.availability.may_be_back_soon())
            self.clock.advance(0.2)
            self.assertFalse(self.availability.may_be_back_soon())
            self.availability.restart()
            self.assertTrue(self.availability.may_be_back_soon())
