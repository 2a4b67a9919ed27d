"""
What one upstream's recent past says about asking it now.

Decides whether an upstream is up, whether it is too slow to be preferred, and when it may be dialled next.  Owns no
timer, reads no clock and draws no random numbers.

An upstream is up until it fails, and up again when it has shown that what failed works: a verified
handshake after a failed dial, an answer after silence.  "Broken fast" is therefore never "fast".

One whose answers are mostly overdue is *slow*: others are preferred until it has answered something in time again.
"""

from __future__ import annotations

from enum import IntEnum

from dotproxy.errors import UpstreamError

#: An upstream that went down no longer ago than this, in seconds, may well be back in a moment.
YOUNG = 10.0

#: How much one answer counts for: some sixteen make a picture.
_WEIGHT = 1 / 16
_SLOW_ABOVE = 0.5

#: How long a slow one is left alone before it is tried again: doubling, from the first to the last.
SLOW_FIRST, SLOW_LAST = 1.0, 30.0

#: One that was not slow for so long begins anew.
FORGOTTEN = 60.0

#: Seconds before the first redial; then twice as long each time.
_FIRST_DELAY = 0.1
#: Nobody is asking: often enough to be back soon, seldom enough not to pester (features.md, C24).
CAP_UNASKED = 30.0
#: Somebody is waiting: a recovered upstream is noticed soon, one that refuses is not dialled more than once a second.
CAP_ASKED = 1.0
#: What jitter adds at most, as a share.
_SPREAD = 0.25


def delay(failures: int, jitter: float, cap: float = CAP_UNASKED) -> float:
    """
    Return seconds to wait after ``failures`` failures in a row (0: none), doubling from 0.1 to ``cap``.

    ``jitter``, from [0, 1), adds up to a quarter, so that many proxies do not dial in step.
    """
    if failures <= 0:
        return 0.0
    # The exponent is bounded so that a long outage cannot overflow a float.
    return min(cap, _FIRST_DELAY * 2.0 ** min(failures - 1, 32)) * (1.0 + jitter * _SPREAD)


class Tier(IntEnum):
    """
    Those of a lower tier are asked first.
    """

    GOOD = 0
    SLOW = 1
    DOWN = 2


class Health:
    """
    The record of one upstream.
    """

    __slots__ = (
        "_failed_at",
        "_jitter",
        "_lateness",
        "_slow_for",
        "_slow_until",
        "error",
        "failures",
        "is_silent",
        "is_slow",
    )

    def __init__(self) -> None:
        self.failures = 0
        self.error: UpstreamError | None = None
        self.is_silent = False
        self.is_slow = False
        self._failed_at = 0.0
        self._jitter = 0.0
        self._lateness = 0.0
        self._slow_for = 0.0
        self._slow_until = 0.0

    @property
    def is_up(self) -> bool:
        """
        Whether nothing has failed since it last worked.
        """
        return not self.failures

    @property
    def is_lasting(self) -> bool:
        """
        Whether what failed last will fail again if it is tried soon.
        """
        return self.error is not None and self.error.is_lasting

    def failed(self, error: UpstreamError, now: float, jitter: float, *, silent: bool = False) -> None:
        """
        Note a failure.

        ``silent``: a connection stood, and nothing came over it; the next handshake proves nothing.
        """
        self.failures += 1
        self.error = error
        self.is_silent = self.is_silent or silent
        self._failed_at = now
        self._jitter = jitter

    def connected(self) -> bool:
        """
        Note a verified handshake; return whether that brought it up.
        """
        return not self.is_silent and self.answered()

    def answered(self) -> bool:
        """
        Note an answer; return whether that brought it up.
        """
        was_up = self.is_up
        self.failures = 0
        self.error = None
        self.is_silent = False
        return not was_up

    def was_late(self, now: float) -> float:
        """
        Note a question that was overdue.  If that makes it slow, return after how many seconds it is to be tried
        again, else 0.
        """
        self._lateness += (1 - self._lateness) * _WEIGHT
        if self.is_slow or self._lateness <= _SLOW_ABOVE:
            return 0.0
        if now > self._slow_until + FORGOTTEN:
            self._slow_for = 0.0
        self.is_slow = True
        return self.still_slow(now)

    def was_in_time(self, answers: int) -> None:
        """
        Note answers that were not overdue.
        """
        if self._lateness:
            self._lateness *= (1 - _WEIGHT) ** answers
            if self._lateness < 0.01:
                self._lateness = 0.0

    def still_slow(self, now: float) -> float:
        """
        Return how long to wait, in seconds, before a slow one is tried again; each time longer.
        """
        self._slow_for = min(SLOW_LAST, max(SLOW_FIRST, self._slow_for * 2))
        self._slow_until = now + self._slow_for
        return self._slow_for

    def tried_in_time(self, now: float) -> None:
        """
        It answered in time what it was tried with; if it was left alone long enough it is not slow any more, but it
        takes less to be so again.
        """
        if self.is_slow and now >= self._slow_until:
            self.is_slow = False
            self._slow_until = now
            self._lateness = _SLOW_ABOVE / 2

    def may_be_back_soon(self, now: float, down_since: float) -> bool:
        """
        Whether a question may wait for it to come up.
        """
        return not self.is_lasting and now - down_since < YOUNG

    def wait(self, now: float, *, asked: bool) -> float:
        """
        Return how many seconds from ``now`` it is to be dialled; ``asked``: a question waits for it.
        """
        cap = CAP_ASKED if asked else CAP_UNASKED
        return max(0.0, self._failed_at + delay(self.failures, self._jitter, cap) - now)
