"""
The timer after which clients get a stale response (RFC 8767 §5, client response timer).

Decides the time.  The cache decides whether there is a stale response then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dotproxy.forwarding.inflight import Query

#: How long a client waits for a fresh response before it gets a stale one, in seconds (RFC 8767 §5).
STALE_AFTER: Final = 1.8

#: The least time between two runs of the timer, in seconds.
_GRAIN: Final = 0.02


class StaleTimer:
    """
    Owns: queries that have a stale response, in the order of arrival, and one timer.
    Tells: ``serve``, with the queries that are due.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float], serve: Callable[[list[Query]], None]) -> None:
        self._clock = clock
        self._now = now
        self._serve = serve
        self._queries: deque[Query] = deque()
        self._timer: IDelayedCall | None = None

    def add(self, query: Query) -> None:
        """
        Add a query that has a stale response.  Queries have to be added in the order of arrival.
        """
        self._queries.append(query)
        if self._timer is None:
            self._timer = self._clock.callLater(STALE_AFTER, self._due)

    def stop(self) -> None:
        """
        Forget all queries, and cancel the timer.
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
