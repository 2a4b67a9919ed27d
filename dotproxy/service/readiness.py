"""
When the service is ready, and how many upstreams are verified: logged at the start, told to systemd at each change.

Decides when the start is over: when each upstream was tried, or after ``START_TIMEOUT`` seconds, since systemd does not
wait without limit.  What counts as verified is ``telemetry.status``'s; who dials is ``assembly``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from dotproxy.service.systemd import ServiceNotifier
from dotproxy.telemetry.report import Report, verified_summary
from dotproxy.telemetry.status import State

#: How long the start waits for upstreams, in seconds.
START_TIMEOUT = 3.0
#: Seconds between two checks during the start, and after it.
START_INTERVAL, INTERVAL = 0.1, 1.0

#: An upstream's certificate that expires in fewer seconds is warned of, once.
EXPIRY_WARNING = 7 * 86400.0

#: Checks over which the query rate is averaged.
_RATE_CHECKS = 10

log = Logger("dotproxy")


class Readiness:
    """
    Watches the upstreams of a service.

    Owns: a timer.
    Told by: the service (``begin`` when it serves clients, ``end`` when it stops).
    Tells: the log, and systemd.

    ``report`` returns the present numbers; ``refresh`` requests newer ones for the next call.  ``text`` says how many
    upstreams are verified; ``rate`` is the number of queries answered a second, over the last ten checks.
    """

    def __init__(
        self,
        report: Callable[[], Report],
        notifier: ServiceNotifier,
        *,
        clock: IReactorTime,
        wall_time: Callable[[], float],
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self.text = "no upstream was tried yet"
        self.rate: float | None = None
        self._report = report
        self._notifier = notifier
        self._clock = clock
        self._wall_time = wall_time
        self._refresh = refresh
        self._started_at = 0.0
        self._is_ready = False
        self._warned: dict[str, float] = {}
        self._answers: deque[tuple[float, int]] = deque(maxlen=_RATE_CHECKS + 1)
        self._timer: IDelayedCall | None = None

    def begin(self) -> None:
        """
        Start the checks: clients are served.
        """
        self._started_at = self._clock.seconds()
        self._timer = self._clock.callLater(0, self._tick)

    def end(self) -> None:
        """
        Stop the checks.
        """
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _tick(self) -> None:
        # First, so that an exception below does not end the checks.
        self._timer = self._clock.callLater(INTERVAL if self._is_ready else START_INTERVAL, self._tick)
        report = self._report()
        before, self.text = self.text, verified_summary(report.upstreams)
        if not self._is_ready:
            was_tried = all(one.status.state not in (State.UNVERIFIED, State.UNSERVED) for one in report.upstreams)
            if (report.upstreams and was_tried) or self._clock.seconds() - self._started_at >= START_TIMEOUT:
                self._log_ready(log.info if any(one.status.is_working for one in report.upstreams) else log.warn)
        elif self.text != before:
            self._notifier.tell(f"STATUS={self.text}")
        self._note_rate(report)
        self._warn_of_expiry(report)
        if not self._is_ready:
            self._refresh()

    def _log_ready(self, log_line: Callable[..., None]) -> None:
        self._is_ready = True
        log_line("ready: {verified}", verified=self.text)
        self._notifier.ready(self.text)

    def _note_rate(self, report: Report) -> None:
        self._answers.append((self._clock.seconds(), sum(report.counters.answers)))
        (since, before), *_, (until, after) = (self._answers[0], *self._answers)
        self.rate = (after - before) / (until - since) if until > since else None

    def _warn_of_expiry(self, report: Report) -> None:
        for upstream in report.upstreams:
            not_after = upstream.status.not_after
            if not_after is None or self._warned.get(upstream.label) == not_after:
                continue
            left = not_after - self._wall_time()
            if 0 < left < EXPIRY_WARNING:
                self._warned[upstream.label] = not_after
                days = round(left / 86400, 1)
                log.warn("{upstream}: its certificate expires in {days} days", upstream=upstream.label, days=days)
