"""
Whether an upstream is up, as far as this process knows, and what operators are told of it.

Decides when a failure is reported as an outage.  What a failure does to the back-off is ``policy.health``'s decision;
when the upstream is dialled again is the upstream's.
"""

from __future__ import annotations

from collections.abc import Callable

from dotproxy.errors import ConnectionGone, UpstreamError
from dotproxy.policy.health import Health
from dotproxy.telemetry.events import Events

#: Seconds added to the back-off for an upstream that another worker found down, so that the other one dials first.
LEARNED_LATER = 0.5


class Availability:
    """
    Owns: the upstream's health, and whether its outage has been reported.
    Told by: the upstream (``note_failure``, ``learn_failure``, ``note_connected``, ``note_reply``, ``restart``).
    """

    def __init__(self, label: str, events: Events, *, now: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._label = label
        self._events = events
        self._now = now
        self._jitter = jitter
        self._down_since = 0.0
        self._is_reported = False
        self.health = Health()

    def note_failure(self, error: UpstreamError, *, silent: bool = False) -> bool:
        """
        Record a failed dial, or that connections are ``silent``; return whether the outage begins with it.

        A single connection that ended is no outage yet.
        """
        self._events.dial_failed(self._label, error)
        self.health.failed(error, self._now(), self._jitter(), silent=silent)
        begins = self.health.failures == 1
        if begins:
            self._down_since = self._now()
        if not self._is_reported and (self.health.failures > 1 or not isinstance(error, ConnectionGone)):
            self._is_reported = True
            self._events.upstream_went_down(self._label, error)
        return begins

    def learn_failure(self, error: UpstreamError) -> bool:
        """
        Record a failure that another worker saw and reported; return whether the outage begins with it.
        """
        begins = self.health.is_up
        if begins:
            self._down_since = self._now()
        self.health.failed(error, self._now() + LEARNED_LATER, self._jitter())
        return begins

    def note_connected(self) -> bool:
        """
        Record a verified connection; return whether the upstream is up again with it.
        """
        return self._recover(self.health.connected)

    def note_reply(self) -> bool:
        """
        Record a reply; return whether the upstream is up again with it.
        """
        return self._recover(self.health.answered)

    def restart(self) -> None:
        """
        Record that earlier failures say nothing any more, since the network or the credentials have changed.
        """
        self._down_since = self._now()

    def may_be_back_soon(self) -> bool:
        """
        Return whether the outage is so short that a query may wait for its end.
        """
        return self.health.is_recent_outage(self._now(), self._down_since)

    def _recover(self, note: Callable[[], bool]) -> bool:
        failures = self.health.failures
        came_up = note()
        if came_up and self._is_reported:
            self._is_reported = False
            self._events.upstream_came_up(self._label, self._now() - self._down_since, failures)
        return came_up
