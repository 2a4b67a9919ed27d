"""
When an upstream whose replies are late is looked into.
"""

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.latency import Latency
from dotproxy.upstream.slowness import Slowness
from dotproxy.upstream.timers import Timers


class Health:
    """
    Health that says what a test wants.
    """

    def __init__(self) -> None:
        self.is_up = True
        self.is_slow = False
        self.wait = 0.0
        self.in_time = 0
        self.late: list[float] = []

    def note_in_time(self, answers: int) -> None:
        self.in_time += answers

    def note_late(self, now: float) -> float:
        self.late.append(now)
        return self.wait

    def extend_slow_period(self, now: float) -> float:
        return 2.0


class Pool:
    """
    A pool that notes what is done to it.
    """

    def __init__(self, clock: Clock) -> None:
        self.timers = Timers(clock)
        self.current: Any = SimpleNamespace(outstanding=1, room=lambda: 1)
        self.is_suspect = False
        self.last_heard = 0.0
        self.did: list[Any] = []

    def select(self) -> Any:
        return self.current

    def give_up_silent(self, since: float) -> None:
        self.did.append(("give up", since))

    def check_liveness(self) -> None:
        self.did.append("check")

    def dial(self) -> None:
        self.did.append("dial")

    def probe(self, connection: Any) -> None:
        self.did.append("probe")

    def balance(self, seconds: float) -> None:
        self.did.append(("balance", seconds))


class SlownessTests(SynchronousTestCase):
    """
    Between health, latency and a pool.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100.0)
        self.health, self.latency, self.pool = Health(), Latency(), Pool(self.clock)
        self.changes = 0
        health: Any = self.health
        pool: Any = self.pool
        self.slowness = Slowness(health, self.latency, pool, now=self.clock.seconds, changed=self.note_change)

    def note_change(self) -> None:
        self.changes += 1

    def test_connection_heard_within_a_quarter_second_is_responsive(self) -> None:
        """
        It was heard since the query was sent, and within the last quarter of a second: it is not checked.
        """
        for heard, asked, responsive in (
            *((99.9, 99.5, True), (99.76, 99.5, True), (99.75, 99.5, False), (99.0, 98.0, False)),
            *((99.9, 99.9, False), (99.9, 99.95, False)),
        ):
            self.pool.did.clear()
            self.pool.last_heard = heard
            self.assertEqual(responsive, self.slowness.check_liveness(asked), (heard, asked))
            checked = [] if responsive else ["check"]
            self.assertEqual([("give up", asked), *checked], self.pool.did, (heard, asked))

    def test_missing_or_checked_connection_is_not_checked(self) -> None:
        """
        Without a connection, or with one that is being checked, it is not responsive, and is not checked again.
        """
        self.pool.last_heard = 99.9
        self.pool.is_suspect = True
        self.assertFalse(self.slowness.check_liveness(99.5))
        self.pool.is_suspect, self.pool.current = False, None
        self.assertFalse(self.slowness.check_liveness(99.5))
        self.assertNotIn("check", self.pool.did)

    def test_one_watch_at_a_time(self) -> None:
        """
        However many queries are slow, there is one watch; another can follow.
        """
        self.slowness.watch(100.0, 0.2)
        self.slowness.watch(100.0, 0.1)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.clock.advance(0.2)
        self.assertEqual(["check"], self.pool.did)
        self.slowness.watch(100.2, 0.2)
        self.clock.advance(0.2)
        self.assertEqual(["check", "check"], self.pool.did)

    def test_watch_checks_only_if_nothing_was_heard(self) -> None:
        """
        Since the query was sent, with a query in flight.
        """
        for heard, outstanding, checked in ((100.0, 1, True), (100.1, 1, False), (99.0, 0, False)):
            pool = self.pool
            pool.did.clear()
            pool.last_heard = 0.0
            self.slowness.watch(100.0, 0.1)
            pool.last_heard, pool.current.outstanding = heard, outstanding
            self.clock.advance(0.1)
            self.assertEqual(["check"] * checked, pool.did, (heard, outstanding))
        self.slowness.watch(200.0, 0.1)
        self.pool.current = None
        self.clock.advance(0.1)
        self.assertEqual([], self.pool.did)

    def test_replies_in_time_improve_health_and_are_recorded(self) -> None:
        """
        They count for its health if they were not overdue; each is noted and may move the balance.
        """
        self.slowness.record_latency(0.25, 3)
        self.slowness.record_latency(0.1, 2)
        self.assertEqual(5, self.health.in_time)
        self.slowness.record_latency(0.51, 7)
        self.assertEqual(5, self.health.in_time)
        self.assertEqual([("balance", 0.25), ("balance", 0.1), ("balance", 0.51)], self.pool.did)
        self.assertEqual(0.25, self.latency.p50)

    def test_late_replies_are_counted_and_slowness_is_reported(self) -> None:
        """
        Each counts; when the upstream has become slow it is reported, and a trial follows after a while.
        """
        self.slowness.record_late(2)
        self.assertEqual(([100.0, 100.0], 0, []), (self.health.late, self.changes, self.clock.getDelayedCalls()))
        self.health.wait = 1.0
        self.slowness.record_late(1)
        self.assertEqual(1, self.changes)
        self.clock.advance(1.0)
        self.assertEqual(["probe"], self.pool.did)

    def test_slow_upstream_is_tried_until_it_is_not(self) -> None:
        """
        Half a second after each trial it is judged, and tried again if it is still slow.
        """
        self.health.wait, self.health.is_slow = 1.0, True
        self.slowness.record_late(1)
        self.clock.advance(1.0)
        self.clock.advance(0.49)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.clock.advance(0.01)
        self.clock.advance(2.0)
        self.assertEqual(["probe", "probe"], self.pool.did)
        self.health.is_slow = False
        self.clock.advance(0.5)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_trial_dials_or_probes_the_existing_connection(self) -> None:
        """
        Dialled if there is no connection and nothing failed; not probed where there is no room, or a probe already.
        """

        def tried(**changes: Any) -> list[Any]:
            self.pool.did.clear()
            for name, value in {"is_suspect": False, **changes}.items():
                setattr(self.health if name == "is_up" else self.pool, name, value)
            self.health.wait = 1.0
            self.slowness.record_late(1)
            self.clock.advance(1.0)
            return list(self.pool.did)

        self.assertEqual([], tried(is_suspect=True))
        self.assertEqual([], tried(current=SimpleNamespace(outstanding=1, room=lambda: 0)))
        self.assertEqual(["dial"], tried(current=None))
        self.assertEqual([], tried(current=None, is_up=False))
