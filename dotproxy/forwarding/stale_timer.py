"""
When a client that could have a stale response has waited long enough for a fresh one (RFC 8767 §5).

Decides the moment alone; whether there is a stale response then, and what it says, is the cache's to know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dotproxy.forwarding.inflight import Query

#: A client that could have a stale response waits this long for a fresh one, in seconds (RFC 8767 §5).
STALE_AFTER: Final = 1.8

#: Timers closer together than this, in seconds, are one.
_GRAIN: Final = 0.02


class StaleTimer:
    """
    Owns: the queries whose clients could have a stale response, in the order they were asked, and one timer.
    Tells: ``serve``, which queries it is time for.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float], serve: Callable[[list[Query]], None]) -> None:
        self._clock = clock
        self._now = now
        self._serve = serve
        self._queries: deque[Query] = deque()
        self._timer: IDelayedCall | None = None

    def add(self, query: Query) -> None:
        """
        The clients of this query could have a stale response; it was asked last of all.
        """
        self._queries.append(query)
        if self._timer is None:
            self._timer = self._clock.callLater(STALE_AFTER, self._due)

    def stop(self) -> None:
        """
        Watch over nothing any more.
        """
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._queries.clear()

    def _due(self) -> None:
        self._timer = None
        now = self._now()
        due: list[Query] = []
        while self._queries and self._queries[0].started_at + STALE_AFTER <= now + _GRAIN:
            due.append(self._queries.popleft())
        while self._queries and not self._queries[0].waiting:
            self._queries.popleft()
        if self._queries:
            left = self._queries[0].started_at + STALE_AFTER - now
            self._timer = self._clock.callLater(max(_GRAIN, left), self._due)
        self._serve(due)
