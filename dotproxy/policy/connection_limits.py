"""
Limits of the connections to one upstream: how long one may be idle, how many queries it carries, how many there are.

Decides these from what is configured and from how earlier connections went: a connection is closed a little before its
server would close it; some servers close after a fixed number of queries; some answer one query after the other, so
that more connections help.  Refuses to know connections: it takes numbers and returns numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: The share of a server's idle timeout after which we close.
_SHARE_OF_IDLE: Final = 0.9

#: By this factor a learned idle timeout grows with each connection, so that a longer one of the server's is noticed.
_IDLE_GROWTH: Final = 1.02

#: A connection that the server closes sooner than this, in seconds, was not closed for being idle.
_MIN_IDLE: Final = 0.2

#: So many closes in a row after about the same number of responses make a limit.
_SIMILAR_CLOSES: Final = 3

#: A server that answers more than this on a connection needs no limit.
_MAX_LIMIT: Final = 500

#: Connections to one upstream, at most.
MAX_CONNECTIONS: Final = 4

#: In-flight queries for each connection that there must be before another one is dialled.
_MIN_IN_FLIGHT: Final = 8

#: Responses are slow that take longer than this, in seconds, and longer than so many dials: a dial measures distance.
_SLOW: Final = 0.1
_SLOW_IN_DIALS: Final = 2.0


class IdleLimit:
    """
    Learn how long a connection to one upstream may be idle; ``configured`` is the longest, in seconds.
    """

    __slots__ = ("_configured", "_learned")

    def __init__(self, configured: float) -> None:
        self._configured = configured
        self._learned = configured

    def next_timeout(self) -> float:
        """
        Return the idle timeout of the next connection, in seconds; the one after that gets a little more.
        """
        timeout = self._learned
        self._learned = min(self._configured, self._learned * _IDLE_GROWTH)
        return timeout

    def closed_by_peer(self, idle: float) -> None:
        """
        Note that the server closed a connection after ``idle`` seconds without a query in flight.
        """
        if idle >= _MIN_IDLE:
            self._learned = min(self._configured, idle * _SHARE_OF_IDLE)


class PerConnectionLimit:
    """
    Learn how many queries one upstream answers on a connection before it closes it.

    ``limit`` is None until there is one; ``changed`` is called with each new value.
    """

    __slots__ = ("_changed", "_counts", "limit")

    def __init__(self, changed: Callable[[int | None], None] = lambda limit: None) -> None:
        self._counts: list[int] = []
        self._changed = changed
        self.limit: int | None = None

    def ended(self, answers: int) -> None:
        """
        Note that the server closed a connection after so many responses, with queries in flight or right after one.
        """
        self._counts = [*self._counts, answers][-_SIMILAR_CLOSES:]
        low, high = min(self._counts), max(self._counts)
        are_similar = len(self._counts) == _SIMILAR_CLOSES and 0 < low <= _MAX_LIMIT and high - low <= max(1, low // 10)
        self._set(low if are_similar else None)

    def forget(self) -> None:
        """
        Forget what was learned: one question has turned out to be the cause of the closes.
        """
        self._counts.clear()
        self._set(None)

    def learn(self, limit: int | None) -> None:
        """
        Use a limit that another worker has learned; ``changed`` is not called.
        """
        self._counts = [] if limit is None else [limit] * _SIMILAR_CLOSES
        self.limit = limit

    def _set(self, limit: int | None) -> None:
        if limit != self.limit:
            self.limit = limit
            self._changed(limit)


def should_add_connection(response_time: float, dial_time: float, in_flight: int, connections: int) -> bool:
    """
    Return whether another connection is worth a dial: responses are slow and many queries share few connections.

    Times are in seconds.
    """
    is_slow = response_time > max(_SLOW, _SLOW_IN_DIALS * dial_time)
    return is_slow and connections < MAX_CONNECTIONS and in_flight >= _MIN_IN_FLIGHT * connections
