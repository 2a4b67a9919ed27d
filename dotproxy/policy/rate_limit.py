"""
How often something may be done: a token bucket.

Decides by count and time alone; the clock is the caller's.
"""

from __future__ import annotations


class RateLimit:
    """
    ``rate`` times a second, and as many at once after a second's rest.
    """

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = self._left = rate
        self._at = now

    def available(self, now: float) -> int:
        """
        Return how many times it may be done now.
        """
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        return int(self._left)

    def take(self) -> None:
        """
        Note that it was done once.
        """
        self._left -= 1
