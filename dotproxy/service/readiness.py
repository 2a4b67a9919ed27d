"""
How many upstreams are verified: told once at the start, and to systemd whenever it changes.

Decides when the start is over: when each upstream was tried, or after ``LONGEST`` seconds, since the service notifier
does not wait for ever.  What counts as verified is ``telemetry.status``'s; who dials is ``assembly``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from dotproxy.service.systemd import ServiceNotifier
from dotproxy.telemetry.report import Report, verified_summary
from dotproxy.telemetry.status import State

#: How long upstreams may take at the start, in seconds, and how often they are looked at until then, and after that.
LONGEST = 3.0
AT_START, INTERVAL = 0.1, 1.0

#: A certificate that expires in fewer seconds is warned of, once.
SOON = 7 * 86400.0

#: Over how many looks the rate of queries is taken.
_LOOKS = 10

log = Logger("dotproxy")


class Readiness:
    """
    Told by: the service whose it is (``begin`` when clients are served, ``end`` when they are not any more).
    Tells: the log, and systemd.
    Owns: a timer.

    ``look`` returns a report, ``refresh`` sees to it that the next one is a new one, ``date`` the seconds since 1970.
    ``text`` says how many upstreams are verified; ``rate`` is how many queries a second were answered of late.
    """

    def __init__(
        self,
        look: Callable[[], Report],
        notifier: ServiceNotifier,
        *,
        clock: IReactorTime,
        wall_time: Callable[[], float],
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self.text = "no upstream was tried yet"
        self.rate: float | None = None
        self._look = look
        self._notifier = notifier
        self._clock = clock
        self._wall_time = wall_time
        self._refresh = refresh
        self._began = 0.0
        self._is_told = False
        self._warned: dict[str, float] = {}
        self._answers: deque[tuple[float, int]] = deque(maxlen=_LOOKS + 1)
        self._timer: IDelayedCall | None = None

    def begin(self) -> None:
        """
        Clients are served: say so when upstreams were tried.
        """
        self._began = self._clock.seconds()
        self._timer = self._clock.callLater(0, self._tick)

    def end(self) -> None:
        """
        Say nothing more.
        """
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _tick(self) -> None:
        # First, so that whatever goes wrong below is not the last look.
        self._timer = self._clock.callLater(INTERVAL if self._is_told else AT_START, self._tick)
        report = self._look()
        before, self.text = self.text, verified_summary(report.upstreams)
        if not self._is_told:
            was_tried = all(one.status.state not in (State.UNVERIFIED, State.UNSERVED) for one in report.upstreams)
            if (report.upstreams and was_tried) or self._clock.seconds() - self._began >= LONGEST:
                self._tell(log.info if any(one.status.is_working for one in report.upstreams) else log.warn)
        elif self.text != before:
            self._notifier.tell(f"STATUS={self.text}")
        self._note_rate(report)
        self._warn_of_expiry(report)
        if not self._is_told:
            self._refresh()

    def _tell(self, logged: Callable[..., None]) -> None:
        self._is_told = True
        logged("ready: {verified}", verified=self.text)
        self._notifier.ready(self.text)

    def _note_rate(self, report: Report) -> None:
        self._answers.append((self._clock.seconds(), sum(report.counters.answers)))
        (since, before), (until, after) = self._answers[0], self._answers[-1]
        self.rate = (after - before) / (until - since) if until > since else None

    def _warn_of_expiry(self, report: Report) -> None:
        for upstream in report.upstreams:
            not_after = upstream.status.not_after
            if not_after is None or self._warned.get(upstream.label) == not_after:
                continue
            left = not_after - self._wall_time()
            if 0 < left < SOON:
                self._warned[upstream.label] = not_after
                days = round(left / 86400, 1)
                log.warn("{upstream}: its certificate expires in {days} days", upstream=upstream.label, days=days)
