"""
What is told of the start, and to systemd.
"""

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.readiness import INTERVAL, START_INTERVAL, START_TIMEOUT, Readiness
from dotproxy.service.systemd import ServiceNotifier
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.telemetry.report import Report, UpstreamReport
from dotproxy.telemetry.status import State, UpstreamStatus

UP, NEW = UpstreamStatus(State.UP), UpstreamStatus(State.UNVERIFIED)
DOWN = UpstreamStatus(State.DOWN, 1, 0.0, "connect: connection refused")


class Told(ServiceNotifier):
    """
    What systemd is told.
    """

    def __init__(self) -> None:
        super().__init__({}, Clock())
        self.messages: list[tuple[str, ...]] = []

    def tell(self, *lines: str) -> None:
        """
        Keep it.
        """
        self.messages.append(lines)


class ReadinessTests(SynchronousTestCase):
    """
    Two upstreams.
    """

    def setUp(self) -> None:
        """
        That were not tried yet.
        """
        self.clock = Clock()
        self.manager = Told()
        self.report = Report()
        self.refreshed = 0
        self.logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)
        self.readiness = Readiness(
            lambda: self.report, self.manager, clock=self.clock, wall_time=lambda: 1000.0, refresh=self.refresh
        )
        self.are(NEW, NEW)

    def refresh(self) -> None:
        """
        Called before each look at the start.
        """
        self.refreshed += 1

    def are(self, *statuses: UpstreamStatus) -> None:
        """
        The upstreams have these statuses from now on.
        """
        self.report.upstreams = [
            UpstreamReport(label, UpstreamCounters(), status, 0) for label, status in zip("ab", statuses, strict=False)
        ]

    def lines(self) -> list[tuple[LogLevel, str]]:
        """
        What was logged.
        """
        return [(event["log_level"], formatEvent(event)) for event in self.logged]

    def test_ready_when_each_upstream_was_tried(self) -> None:
        """
        Not before; one line, and systemd hears the same.
        """
        self.readiness.begin()
        self.clock.pump([START_INTERVAL] * 5)
        self.are(UP, NEW)
        self.clock.pump([START_INTERVAL] * 5)
        self.assertEqual(([], []), (self.lines(), self.manager.messages))
        self.are(UP, UP)
        self.clock.pump([START_INTERVAL] * 5)
        self.assertEqual([(LogLevel.info, "ready: 2 of 2 upstreams verified")], self.lines())
        self.assertEqual([("READY=1", "STATUS=2 of 2 upstreams verified")], self.manager.messages)
        self.assertGreater(self.refreshed, 5)

    def test_ready_after_a_few_seconds_at_most(self) -> None:
        """
        Whatever came of it.
        """
        self.readiness.begin()
        self.are(UP, NEW)
        self.clock.pump([START_INTERVAL] * round(START_TIMEOUT / START_INTERVAL - 1))
        self.assertEqual([], self.manager.messages)
        self.clock.pump([START_INTERVAL] * 2)
        text = "1 of 2 upstreams verified (b: not verified yet)"
        self.assertEqual([("READY=1", f"STATUS={text}")], self.manager.messages)
        self.assertEqual([(LogLevel.info, f"ready: {text}")], self.lines())

    def test_ready_without_a_verified_upstream_is_a_warning(self) -> None:
        """
        That says why.
        """
        self.readiness.begin()
        self.are(DOWN, DOWN)
        self.clock.pump([START_INTERVAL])
        text = "0 of 2 upstreams verified (a: connect: connection refused; b: connect: connection refused)"
        self.assertEqual([(LogLevel.warn, f"ready: {text}")], self.lines())

    def test_status_text_is_sent_once_per_change(self) -> None:
        """
        systemd hears of every change, once, and the log nothing more.
        """
        self.readiness.begin()
        self.are(UP, UP)
        self.clock.advance(0)
        self.are(UP, DOWN)
        self.clock.pump([INTERVAL] * 3)
        self.are(UP, UP)
        self.clock.pump([INTERVAL] * 3)
        expected = [
            "1 of 2 upstreams verified (b: connect: connection refused)",
            "2 of 2 upstreams verified",
        ]
        self.assertEqual([(f"STATUS={text}",) for text in expected], self.manager.messages[1:])
        self.assertEqual(1, len(self.lines()))

    def test_rate_is_that_of_the_last_ten_seconds(self) -> None:
        """
        Of the last ten seconds.
        """
        self.readiness.begin()
        self.are(UP, UP)
        self.clock.advance(0)
        self.assertIsNone(self.readiness.rate)
        for _ in range(20):
            self.report.counters.answers[0] += 30
            self.clock.advance(INTERVAL)
        self.assertAlmostEqual(30.0, self.readiness.rate or 0.0)
        self.clock.pump([INTERVAL] * 5)
        self.assertAlmostEqual(15.0, self.readiness.rate or 0.0)

    def test_certificate_that_expires_soon_is_warned_of_once(self) -> None:
        """
        Is warned of once, until there is another.
        """
        self.readiness.begin()
        for not_after in (1000.0 + 8 * 86400, 1000.0 + 3 * 86400, 1000.0 + 5 * 86400, 900.0):
            self.are(UpstreamStatus(State.UP, not_after=not_after), UP)
            self.clock.pump([INTERVAL] * 3)
        warned = [text for level, text in self.lines() if level == LogLevel.warn]
        self.assertEqual([f"a: its certificate expires in {days}.0 days" for days in (3, 5)], warned)

    def test_nothing_is_reported_after_the_end(self) -> None:
        """
        Nothing is told any more.
        """
        self.readiness.begin()
        self.clock.advance(0)
        self.readiness.end()
        self.readiness.end()
        self.assertEqual([], self.clock.getDelayedCalls())
