"""
An upstream whose replies are late, or a connection that has gone quiet: when that is looked into.

Decides when a slow upstream is tried again, and when a quiet connection is put under suspicion.  What is late is
``latency``'s decision, what makes an upstream slow ``health``'s, what becomes of the connection the ``pool``'s.
"""

from __future__ import annotations

from collections.abc import Callable

from dotproxy.policy.health import Health
from dotproxy.policy.latency import MIN_OVERDUE, Latency
from dotproxy.upstream.pool import Pool

#: A connection heard from this short a while ago is not under suspicion.
RECENTLY = 0.25


class Slowness:
    """
    Told by: the forwarder, through the upstream (``check_liveness``, ``watch``, ``record_latency``, ``record_late``).
    Tells: ``changed`` when the upstream has become slow.
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
        Take note that a question, asked at ``since``, has had no answer for too long; return whether the connection is
        lively, so that it seems to be the question, or its answer, that was lost.

        If it is not, it is asked something easy, and if that brings nothing either, it is replaced and its
        questions are given back.
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
        Take note that a question asked at ``since`` is slow: if nothing at all is heard for so many seconds more, the
        connection is under suspicion.
        """
        if not self._is_watching:
            self._is_watching = True
            self._pool.timers.later(seconds, self._check, since)

    def record_latency(self, seconds: float, answers: int) -> None:
        """
        Take note that so many answers came together, and the first took so long.
        """
        if seconds <= self._latency.overdue_after(seconds):
            self._health.note_in_time(answers)
        self._latency.note(seconds)
        self._pool.balance(seconds)

    def record_late(self, questions: int) -> None:
        """
        Take note that so many questions were overdue, or answered with an error where others may know better.
        """
        for _ in range(questions):
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
        Find out whether it still is slow.
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
