"""
What an upstream's answers usually take, and so when one is late.

Decides two times from the last answers: when a question is slow enough to be worth asking elsewhere too, if that is
cheap (``hedge_after``), and when it is overdue (``overdue_after``).  Reads no clock.
"""

from __future__ import annotations

#: How many answers are remembered, and after how many new ones the figures are made anew.
_REMEMBERED = 128
_RENEWED = 16

#: Below this nothing is late: a scheduler, a radio or a cache miss takes as long, in seconds.
OVERDUE_FLOOR = 0.25
HEDGE_FLOOR = 0.05


class Latency:
    """
    The latest answers of one upstream.  ``p50`` and ``p95`` are in seconds, None while nothing is known.
    """

    __slots__ = ("_at", "_samples", "_since", "p50", "p95")

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._at = 0
        self._since = 0
        self.p50: float | None = None
        self.p95: float | None = None

    def note(self, seconds: float) -> None:
        """
        An answer took so long.
        """
        if len(self._samples) < _REMEMBERED:
            self._samples.append(seconds)
        else:
            self._samples[self._at] = seconds
            self._at = (self._at + 1) % _REMEMBERED
        self._since += 1
        if self._since >= _RENEWED or self.p50 is None:
            self._since = 0
            ordered = sorted(self._samples)
            self.p50 = ordered[len(ordered) // 2]
            self.p95 = ordered[len(ordered) * 95 // 100]

    def overdue_after(self, limit: float) -> float:
        """
        Return how long after it was asked a question is overdue, ``limit`` at most.
        """
        return min(limit, max(OVERDUE_FLOOR, 2 * (self.p95 or 0.0)))

    def hedge_after(self, limit: float) -> float:
        """
        Return how long after it was asked a question is slower than nearly all others.
        """
        if self.p95 is None:
            return self.overdue_after(limit)
        return min(self.overdue_after(limit), max(HEDGE_FLOOR, self.p95))
