"""
The status of an upstream, of one process and of several.
"""

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Unreachable
from dotproxy.policy.health import Health, Tier
from dotproxy.telemetry.status import State, StatusRecord, UpstreamStatus, best_of


class StandingTests(SynchronousTestCase):
    """
    Of one process.
    """

    def test_down_precedes_unverified_and_slow(self) -> None:
        """
        Down counts most; without a verified handshake nothing is up, however fast or slow it seems.
        """
        for tier, is_verified, state in (
            (Tier.GOOD, False, State.UNVERIFIED),
            (Tier.SLOW, False, State.UNVERIFIED),
            (Tier.DOWN, False, State.DOWN),
            (Tier.GOOD, True, State.UP),
            (Tier.SLOW, True, State.SLOW),
            (Tier.DOWN, True, State.DOWN),
        ):
            standing = StatusRecord(Health(), now=lambda: 0.0, tier=lambda tier=tier: tier)
            if is_verified:
                standing.note_verified(None)
            status = standing.status
            self.assertEqual((state, state <= State.SLOW), (status.state, status.is_working))

    def test_failures_are_reported_while_there_are_any(self) -> None:
        """
        Are told of for as long as there are any; the certificate is remembered.
        """
        health = Health()
        standing = StatusRecord(health, now=lambda: 15.0, tier=lambda: Tier.GOOD if health.is_up else Tier.DOWN)
        standing.note_verified(datetime(2030, 1, 1, tzinfo=UTC))
        standing.failing_since = 10.0
        for now in (10.0, 11.0):
            health.failed(Unreachable("connect", "refused"), now, 0.0)
        expected = UpstreamStatus(State.DOWN, 2, 5.0, "connect: refused", 1893456000.0)
        self.assertEqual(expected, standing.status)
        health.connected()
        self.assertEqual(UpstreamStatus(State.UP, not_after=1893456000.0), standing.status)


class BestOfTests(SynchronousTestCase):
    """
    Of several.
    """

    def test_best_state_is_reported(self) -> None:
        """
        Up before slow, before not verified, before down, before nobody knows.
        """
        statuses = [UpstreamStatus(state) for state in State]
        for first in range(len(statuses)):
            self.assertEqual(statuses[first].state, best_of(list(reversed(statuses[first:]))).state)

    def test_certificate_that_expires_first_counts(self) -> None:
        """
        Also if it was seen by a worker for which the upstream is down.
        """
        statuses = [UpstreamStatus(State.UP, not_after=20.0), UpstreamStatus(State.DOWN, 1, 2.0, "x", 10.0)]
        self.assertEqual(UpstreamStatus(State.UP, not_after=10.0), best_of(statuses))
