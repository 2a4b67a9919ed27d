"""
The log: one line for each change of state.

Decides what is worth a line, and at which level.  No query name and no client address passes through
here at all, so none can be logged.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dotproxy.errors import UpstreamError
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.words import pluralized

log = Logger("dotproxy")

#: So many lines about an upstream that goes down are told in so many seconds; what is more is counted.
_ENOUGH = 3
_WINDOW = 60


class LoggedEvents(Events):
    """
    Events as lines for a person.

    Without ``debug`` what is only of interest then is not logged at all: twistd shows every level.
    """

    def __init__(self, *, debug: bool = False, clock: IReactorTime | None = None) -> None:
        self.debug = debug
        self._clock = clock
        self._seen: set[str] = set()
        self._changes: dict[str, int] = {}

    def upstream_connected(
        self, upstream: str, peer: str, tls: str, verified: str, *, resumed: bool, seconds: float
    ) -> None:
        """
        The first connection to an upstream is news; that there is another after an idle while is not.
        """
        is_news = upstream not in self._seen
        if not (is_news or self.debug):
            return
        self._seen.add(upstream)
        (log.info if is_news else log.debug)(
            "{upstream}: connected to {peer} in {milliseconds} ms ({tls}{again}, verified as {verified})",
            upstream=upstream,
            peer=peer,
            tls=tls,
            again=" resumed" if resumed else "",
            verified=verified,
            milliseconds=round(seconds * 1000),
        )

    def upstream_went_down(self, upstream: str, error: UpstreamError) -> None:
        """
        Once for each time it goes down, however many attempts follow; one that does so again and again is summed up.
        """
        if self._is_summed_up(upstream):
            return
        log.warn("{upstream}: down: {phase}: {reason}", upstream=upstream, phase=error.phase, reason=error.reason)

    def upstream_came_up(self, upstream: str, seconds: float, failures: int) -> None:
        """
        Once for each time it comes back.
        """
        if self._changes.get(upstream, 0) > _ENOUGH:
            return
        log.info(
            "{upstream}: up again after {seconds} s ({attempts})",
            upstream=upstream,
            seconds=round(seconds, 1),
            failures=failures,
            attempts=pluralized(failures, "failed attempt"),
        )

    def _is_summed_up(self, upstream: str) -> bool:
        """
        Whether it has gone down so often in a minute that the rest of them is one line at its end.
        """
        if self._clock is None:
            return False
        times = self._changes.get(upstream, 0) + 1
        self._changes[upstream] = times
        if times == 1:
            self._clock.callLater(_WINDOW, self._sum_up, upstream)
        return times > _ENOUGH

    def _sum_up(self, upstream: str) -> None:
        times = self._changes.pop(upstream, 0)
        if times > _ENOUGH:
            log.warn("{upstream}: down {times} times in {window} s", upstream=upstream, times=times, window=_WINDOW)

    def connection_closed(self, upstream: str, reason: str, outstanding: int) -> None:
        """
        Connections come and go; that is no change of state.
        """
        if not self.debug:
            return
        log.debug(
            "{upstream}: connection ended with {outstanding} questions outstanding: {reason}",
            upstream=upstream,
            outstanding=outstanding,
            reason=reason,
        )
