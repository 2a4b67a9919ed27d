"""
The status of an upstream: whether it works, and if not, why and since when.

Decides what counts as working: a verified handshake, and no failure since.  An upstream that was not tried is neither
up nor down.  Refuses to know where the status is presented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from dotproxy.policy.health import Health, Tier


class State(IntEnum):
    """
    The states of an upstream, the best one first.
    """

    UP = 0
    SLOW = 1
    UNVERIFIED = 2  #: no handshake yet, or none with the current CAs
    DOWN = 3
    UNSERVED = 4  #: the worker that used it has ended


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """
    The state of an upstream.

    ``failures`` counts the failed attempts since it last worked, ``down_for`` is the time since the first of them in
    seconds, ``error`` the reason of the last.  ``not_after`` is when the certificate that was seen last expires, in
    seconds since 1970, None if none was seen.
    """

    state: State
    failures: int = 0
    down_for: float = 0.0
    error: str = ""
    not_after: float | None = None

    @property
    def is_working(self) -> bool:
        """
        Whether it was verified, and has not failed since.
        """
        return self.state <= State.SLOW


class StatusRecord:
    """
    What the status of an upstream of this process is made from, beside its ``Health``.

    ``is_verified``: a handshake was verified with the current CAs.  ``failing_since`` is the time of the first failure
    since it last worked, in seconds of ``now``.  ``tier`` returns a ``policy.health.Tier``.
    """

    __slots__ = ("_health", "_not_after", "_now", "_tier", "failing_since", "is_verified")

    def __init__(self, health: Health, *, now: Callable[[], float], tier: Callable[[], int]) -> None:
        self._health = health
        self._now = now
        self._tier = tier
        self.is_verified = False
        self.failing_since = 0.0
        self._not_after: float | None = None

    def note_verified(self, not_after: datetime | None) -> None:
        """
        Note a verified handshake, and when the certificate expires.
        """
        self.is_verified = True
        self._not_after = None if not_after is None else not_after.timestamp()

    @property
    def status(self) -> UpstreamStatus:
        """
        The status now.
        """
        tier, error = self._tier(), self._health.error
        if tier == Tier.DOWN:
            state = State.DOWN
        elif not self.is_verified:
            state = State.UNVERIFIED
        else:
            state = State.SLOW if tier == Tier.SLOW else State.UP
        if error is None:
            return UpstreamStatus(state, not_after=self._not_after)
        reason = f"{error.phase}: {error.reason}"
        return UpstreamStatus(state, self._health.failures, self._now() - self.failing_since, reason, self._not_after)


def best_of(statuses: Sequence[UpstreamStatus]) -> UpstreamStatus:
    """
    Return the status of an upstream that several workers use: the best one of theirs.

    If it is down for all, the longest outage and the highest number of failed attempts count, since workers share
    their failures.  ``not_after`` is that of the certificate that expires first.
    """
    best = min(statuses, key=lambda status: status.state)
    expiries = [status.not_after for status in statuses if status.not_after is not None]
    not_after = min(expiries, default=None)
    if best.state != State.DOWN:
        return UpstreamStatus(best.state, best.failures, best.down_for, best.error, not_after)
    down = [status for status in statuses if status.state == State.DOWN]
    return UpstreamStatus(
        State.DOWN,
        max(status.failures for status in down),
        max(status.down_for for status in down),
        next((status.error for status in down if status.error), ""),
        not_after,
    )
