"""
The health of one upstream: up or down, slow or not, and when it is redialled.

Decides these from failures and response times that it is told of.  Owns no timer, reads no clock and draws no random
numbers.

An upstream is up until it fails, and up again when what failed has worked: a verified handshake after a failed dial, a
response after silence.  An upstream that fails fast is therefore never the fastest.

An upstream whose responses are mostly overdue is *slow*: others are preferred until it responds in time again.
"""

from __future__ import annotations

from enum import IntEnum

from dotproxy.errors import UpstreamError

#: Queries may wait for an upstream that has been down for less than this, in seconds.
RECENT_OUTAGE = 10.0

#: The weight of one response in the moving average of lateness.
_LATENESS_WEIGHT = 1 / 16
_SLOW_ABOVE = 0.5

#: Seconds before a slow upstream is tried again: from the minimum, doubling, to the maximum.
MIN_SLOW_PERIOD, MAX_SLOW_PERIOD = 1.0, 30.0

#: An upstream that was not slow for so many seconds starts at the minimum again.
SLOW_HISTORY = 60.0

#: Seconds before the first redial; then twice as long each time.
_MIN_DELAY = 0.1
#: The longest delay between dials while no query is pending, in seconds.
MAX_DELAY_IDLE = 30.0
#: The longest delay while queries are pending, in seconds.
MAX_DELAY_PENDING = 1.0
#: The most that jitter adds, as a share of the delay.
_JITTER_SHARE = 0.25


def redial_delay(failures: int, jitter: float, cap: float = MAX_DELAY_IDLE) -> float:
    """
    Return seconds to wait after ``failures`` failures in a row (0: none), doubling from 0.1 to ``cap``.

    ``jitter``, from [0, 1), adds up to a quarter, so that many proxies do not dial in step.
    """
    if failures <= 0:
        return 0.0
    # The exponent is bounded so that a long outage cannot overflow a float.
    return min(cap, _MIN_DELAY * 2.0 ** min(failures - 1, 32)) * (1.0 + jitter * _JITTER_SHARE)


class Tier(IntEnum):
    """
    A preference among upstreams: queries go to the lowest tier first.
    """

    GOOD = 0
    SLOW = 1
    DOWN = 2


class Health:
    """
    The health of one upstream.  Times are in seconds on the caller's clock.
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
        Whether there was no failure since the last success.
        """
        return not self.failures

    @property
    def is_lasting(self) -> bool:
        """
        Whether the last failure is of a kind that a retry soon does not mend.
        """
        return self.error is not None and self.error.is_lasting

    def failed(self, error: UpstreamError, now: float, jitter: float, *, silent: bool = False) -> None:
        """
        Note a failure.

        ``silent``: an established connection brought no response, so that the next handshake alone proves nothing.
        """
        self.failures += 1
        self.error = error
        self.is_silent = self.is_silent or silent
        self._failed_at = now
        self._jitter = jitter

    def connected(self) -> bool:
        """
        Note a verified handshake; return whether the upstream is up again by it.
        """
        return not self.is_silent and self.answered()

    def answered(self) -> bool:
        """
        Note a response; return whether the upstream is up again by it.
        """
        was_up = self.is_up
        self.failures = 0
        self.error = None
        self.is_silent = False
        return not was_up

    def note_late(self, now: float) -> float:
        """
        Note an overdue query.  Return after how many seconds to try the upstream again if it is slow from now on, else
        0.
        """
        self._lateness += (1 - self._lateness) * _LATENESS_WEIGHT
        if self.is_slow or self._lateness <= _SLOW_ABOVE:
            return 0.0
        if now > self._slow_until + SLOW_HISTORY:
            self._slow_for = 0.0
        self.is_slow = True
        return self.extend_slow_period(now)

    def note_in_time(self, answers: int) -> None:
        """
        Note responses that were not overdue.
        """
        if self._lateness:
            self._lateness *= (1 - _LATENESS_WEIGHT) ** answers
            if self._lateness < 0.01:
                self._lateness = 0.0

    def extend_slow_period(self, now: float) -> float:
        """
        Return how many seconds to wait before a slow upstream is tried again: twice as long each time.
        """
        self._slow_for = min(MAX_SLOW_PERIOD, max(MIN_SLOW_PERIOD, self._slow_for * 2))
        self._slow_until = now + self._slow_for
        return self._slow_for

    def trial_in_time(self, now: float) -> None:
        """
        Note a trial query that was answered in time: after the slow period the upstream is not slow any more, but
        fewer overdue responses make it slow again.
        """
        if self.is_slow and now >= self._slow_until:
            self.is_slow = False
            self._slow_until = now
            self._lateness = _SLOW_ABOVE / 2

    def is_recent_outage(self, now: float, down_since: float) -> bool:
        """
        Return whether a query may wait for the upstream to come up.
        """
        return not self.is_lasting and now - down_since < RECENT_OUTAGE

    def seconds_until_redial(self, now: float, *, has_pending: bool) -> float:
        """
        Return in how many seconds to redial; ``has_pending``: queries wait for the upstream.
        """
        cap = MAX_DELAY_PENDING if has_pending else MAX_DELAY_IDLE
        return max(0.0, self._failed_at + redial_delay(self.failures, self._jitter, cap) - now)
