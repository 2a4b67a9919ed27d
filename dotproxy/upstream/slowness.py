"""
Slow upstreams and silent connections: when they are probed.

Decides when a slow upstream is probed again, and when a silent connection is.  When a reply is late is decided by
``policy.latency``, when an upstream is slow by ``policy.health``, when a connection is replaced by the ``pool``.
"""

from __future__ import annotations

from collections.abc import Callable

from dotproxy.policy.health import Health
from dotproxy.policy.latency import MIN_OVERDUE, Latency
from dotproxy.upstream.pool import Pool

#: A connection that received octets within so many seconds is not suspect.
RECENTLY = 0.25


class Slowness:
    """
    Told by: the dispatcher, through the upstream (``check_liveness``, ``watch``, ``record_latency``, ``record_late``).
    Tells: ``changed``, when the upstream has become slow.
    """

    def __init__(
        self, health: Health, latency: Latency, pool: Pool, *, now: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._health = health
        self._latency = latency
        self._pool = pool
        self._now = now
        self._changed = changed
        self._is_watching = False

    def check_liveness(self, since: float) -> bool:
        """
        Return whether the connection has received something since an overdue query was sent, at ``since``.

        If it has not, it is probed, and if no reply comes, it is replaced and its queries are handed back.
        """
        self._pool.give_up_silent(since)
        connection = self._pool.select()
        if connection is None or self._pool.is_suspect:
            return False
        if self._pool.last_heard > since and self._now() - self._pool.last_heard < RECENTLY:
            return True
        self._pool.check_liveness()
        return False

    def watch(self, since: float, seconds: float) -> None:
        """
        Probe the connection if it receives nothing between ``since``, when a query was sent, and ``seconds`` from now.
        """
        if not self._is_watching:
            self._is_watching = True
            self._pool.timers.later(seconds, self._check, since)

    def record_latency(self, seconds: float, answers: int) -> None:
        """
        Record that so many replies came together, the first of them after ``seconds``.
        """
        if seconds <= self._latency.overdue_after(seconds):
            self._health.note_in_time(answers)
        self._latency.note(seconds)
        self._pool.balance(seconds)

    def record_late(self, queries: int) -> None:
        """
        Record so many queries that were overdue, or answered with an error that another upstream may not give.
        """
        for _ in range(queries):
            if wait := self._health.note_late(self._now()):
                self._pool.timers.later(wait, self._try)
                self._changed()

    def _check(self, since: float) -> None:
        self._is_watching = False
        connection = self._pool.select()
        if connection is not None and connection.outstanding and self._pool.last_heard <= since:
            self._pool.check_liveness()

    def _try(self) -> None:
        """
        Probe the upstream, to find out whether it is still slow.
        """
        connection = self._pool.select()
        if connection is None:
            if self._health.is_up:
                self._pool.dial()
        elif connection.room() and not self._pool.is_suspect:
            self._pool.probe(connection)
        self._pool.timers.later(2 * MIN_OVERDUE, self._judge)

    def _judge(self) -> None:
        if self._health.is_slow:
            self._pool.timers.later(self._health.extend_slow_period(self._now()), self._try)
