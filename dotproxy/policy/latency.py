"""
The response times of one upstream, and when a query to it is late.

Decides two times from the latest responses: after which a query is hedged, if the budget allows (``hedge_after``), and
after which it is overdue and retried (``overdue_after``).  Reads no clock.
"""

from __future__ import annotations

#: Responses that percentiles are computed from, and after how many new ones they are computed again.
_SAMPLES = 128
_UPDATE_INTERVAL = 16

#: No query is overdue, or hedged, before this, in seconds: scheduling, Wi-Fi or a cache miss takes as long.
MIN_OVERDUE = 0.25
MIN_HEDGE = 0.05


class Latency:
    """
    The latest response times of one upstream.  ``p50`` and ``p95`` are in seconds, None before the first response.
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
        Note the time that a response took, in seconds.
        """
        if len(self._samples) < _SAMPLES:
            self._samples.append(seconds)
        else:
            self._samples[self._at] = seconds
            self._at = (self._at + 1) % _SAMPLES
        self._since += 1
        if self._since >= _UPDATE_INTERVAL or self.p50 is None:
            self._since = 0
            ordered = sorted(self._samples)
            self.p50 = ordered[len(ordered) // 2]
            self.p95 = ordered[len(ordered) * 95 // 100]

    def overdue_after(self, limit: float) -> float:
        """
        Return after how many seconds a query is overdue: twice the 95th percentile, ``limit`` at most.
        """
        return min(limit, max(MIN_OVERDUE, 2 * (self.p95 or 0.0)))

    def hedge_after(self, limit: float) -> float:
        """
        Return after how many seconds a query is slower than 95 % of the others.
        """
        if self.p95 is None:
            return self.overdue_after(limit)
        return min(self.overdue_after(limit), max(MIN_HEDGE, self.p95))
