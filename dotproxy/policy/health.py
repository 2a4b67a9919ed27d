"""
What one upstream's recent past says about asking it now.

Decides whether an upstream is up and when it may be dialled next.  Owns no timer and reads no clock.

An upstream is up until it fails, and up again when it has shown that what failed works: a verified
handshake after a failed dial, an answer after silence.  "Broken fast" is therefore never "fast".
"""

from __future__ import annotations

from dotproxy.errors import UpstreamError
from dotproxy.policy.backoff import CAP_ASKED, CAP_UNASKED, delay


class Health:
    """
    The record of one upstream.
    """

    __slots__ = ("_failed_at", "_jitter", "error", "failures", "is_silent")

    def __init__(self) -> None:
        self.failures = 0
        self.error: UpstreamError | None = None
        self.is_silent = False
        self._failed_at = 0.0
        self._jitter = 0.0

    @property
    def is_up(self) -> bool:
        """
        Whether it is to be preferred over upstreams that are not.
        """
        return not self.failures

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

    def wait(self, now: float, *, asked: bool) -> float:
        """
        Return how many seconds from ``now`` it is to be dialled; ``asked``: a question waits for it.
        """
        cap = CAP_ASKED if asked else CAP_UNASKED
        return max(0.0, self._failed_at + delay(self.failures, self._jitter, cap) - now)
