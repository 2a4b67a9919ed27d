"""
The log of upstreams: one line for each change of state.

Decides which events are logged, and at which level.  Events have no query name and no client address, so neither can
be logged here.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dotproxy.errors import UpstreamError
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.plural import pluralized

log = Logger("dotproxy")

#: An upstream that goes down is logged up to 3 times in 60 s; further times are counted, and logged as one line.
_MAX_LINES = 3
_WINDOW = 60


class LoggedEvents(Events):
    """
    Logs events of upstreams.

    Debug events are logged only if ``debug`` is set, since twistd writes every level.
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
        Log the first connection to an upstream at level info, further ones at level debug.
        """
        is_first = upstream not in self._seen
        if not (is_first or self.debug):
            return
        self._seen.add(upstream)
        (log.info if is_first else log.debug)(
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
        Log that an upstream is down, once for each outage; sum up outages that follow each other quickly.
        """
        if self._is_summed_up(upstream):
            return
        log.warn("{upstream}: down: {phase}: {reason}", upstream=upstream, phase=error.phase, reason=error.reason)

    def upstream_came_up(self, upstream: str, seconds: float, failures: int) -> None:
        """
        Log that an upstream works again.
        """
        if self._changes.get(upstream, 0) > _MAX_LINES:
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
        Count an outage; return whether it is one of too many in ``_WINDOW``, which become one line at its end.
        """
        if self._clock is None:
            return False
        times = self._changes.get(upstream, 0) + 1
        self._changes[upstream] = times
        if times == 1:
            self._clock.callLater(_WINDOW, self._sum_up, upstream)
        return times > _MAX_LINES

    def _sum_up(self, upstream: str) -> None:
        times = self._changes.pop(upstream, 0)
        if times > _MAX_LINES:
            log.warn("{upstream}: down {times} times in {window} s", upstream=upstream, times=times, window=_WINDOW)

    def connection_closed(self, upstream: str, reason: str, outstanding: int) -> None:
        """
        Log the end of a connection at level debug: it is no change of the upstream's state.
        """
        if not self.debug:
            return
        log.debug(
            "{upstream}: connection ended with {outstanding} queries outstanding: {reason}",
            upstream=upstream,
            outstanding=outstanding,
            reason=reason,
        )
