"""
The log: one line for each change of state.

Decides what is worth a line, and at which level.  No query name and no client address passes through
here at all, so none can be logged.
"""

from __future__ import annotations

from twisted.logger import Logger

from dotproxy.errors import UpstreamError
from dotproxy.telemetry.events import Events

log = Logger("dotproxy")


class LoggedEvents(Events):
    """
    Events as lines for a person.

    Without ``debug`` what is only of interest then is not logged at all: twistd shows every level.
    """

    def __init__(self, *, debug: bool = False) -> None:
        self.debug = debug
        self._seen: set[str] = set()

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
        Once for each time it goes down, however many attempts follow.
        """
        log.warn("{upstream}: down: {phase}: {reason}", upstream=upstream, phase=error.phase, reason=error.reason)

    def upstream_came_up(self, upstream: str, seconds: float, failures: int) -> None:
        """
        Once for each time it comes back.
        """
        log.info(
            "{upstream}: up again after {seconds} s ({failures} failed attempts)",
            upstream=upstream,
            seconds=round(seconds, 1),
            failures=failures,
        )

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
