"""
A rate limit: a token bucket.

Decides by count and time alone; the clock is the caller's.
"""

from __future__ import annotations


class RateLimit:
    """
    Allow ``rate`` events a second, and as many at once after a second without any.
    """

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = self._left = rate
        self._at = now

    def available(self, now: float) -> int:
        """
        Return how many events are allowed at ``now``, in seconds.
        """
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        return int(self._left)

    def take(self) -> None:
        """
        Count one event.
        """
        self._left -= 1
