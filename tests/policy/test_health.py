"""
What an upstream's past says about asking it.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout, Unreachable, Untrusted
from dotproxy.policy.health import MAX_DELAY_IDLE, MAX_DELAY_PENDING, Health, redial_delay

REFUSED = Unreachable("connect", "connection refused")


class HealthTests(SynchronousTestCase):
    """
    Up, down, and up again.
    """

    def setUp(self) -> None:
        """
        An upstream nothing is known of.
        """
        self.health = Health()

    def test_untried_upstream_is_up(self) -> None:
        """
        It may be dialled at once.
        """
        self.assertTrue(self.health.is_up)
        self.assertEqual(0.0, self.health.seconds_until_redial(0.0, has_pending=False))

    def test_first_failure_marks_it_down_and_failures_are_counted(self) -> None:
        """
        It is down from the first failure on, with their number and the last one's reason.
        """
        for _ in range(3):
            self.health.failed(REFUSED, 1.0, 0.0)
        self.assertEqual((False, 3), (self.health.is_up, self.health.failures))
        self.assertIs(REFUSED, self.health.error)

    def test_handshake_after_failed_dials_marks_it_up_once(self) -> None:
        """
        After failed dials a verified handshake brings it up, once.
        """
        self.health.failed(REFUSED, 1.0, 0.0)
        self.assertEqual([True, False], [self.health.connected(), self.health.connected()])
        self.assertTrue(self.health.is_up)
        self.assertIsNone(self.health.error)

    def test_silent_upstream_is_up_after_a_reply_only(self) -> None:
        """
        After silence a handshake does not mark it up, a reply does.
        """
        self.health.failed(Timeout("read", "silent"), 1.0, 0.0, silent=True)
        self.health.failed(REFUSED, 2.0, 0.0)
        self.assertFalse(self.health.connected())
        self.assertFalse(self.health.is_up)
        self.assertTrue(self.health.answered())
        self.assertTrue(self.health.is_up)

    def test_reply_clears_the_silence(self) -> None:
        """
        After a reply a failed dial is again a failed dial, which a handshake ends.
        """
        self.health.failed(Timeout("read", "silent"), 1.0, 0.0, silent=True)
        self.health.answered()
        self.health.failed(REFUSED, 2.0, 0.0)
        self.assertTrue(self.health.connected())

    def test_reply_while_up_is_no_change(self) -> None:
        """
        A change to up is reported once.
        """
        self.assertEqual([False, False], [self.health.answered(), self.health.connected()])

    def test_last_failure_is_reported(self) -> None:
        """
        Of several failures the latest is kept, and its wait, with jitter.
        """
        self.health.failed(REFUSED, 1.0, 0.0)
        latest = Timeout("connect", "slow")
        self.health.failed(latest, 5.0, 0.5)
        self.assertIs(latest, self.health.error)
        self.assertAlmostEqual(0.225, self.health.seconds_until_redial(5.0, has_pending=False))
        self.assertAlmostEqual(0.125, self.health.seconds_until_redial(5.1, has_pending=False))

    def test_recovery_ends_the_wait(self) -> None:
        """
        Recovery ends the wait.
        """
        for _ in range(10):
            self.health.failed(REFUSED, 100.0, 0.0)
        self.health.connected()
        self.assertEqual(0.0, self.health.seconds_until_redial(100.0, has_pending=False))

    def test_wait_counts_from_the_failure(self) -> None:
        """
        The remaining wait shrinks with time; with pending queries it is a second at most.
        """
        for _ in range(10):
            self.health.failed(REFUSED, 100.0, 0.0)
        self.assertEqual(30.0, self.health.seconds_until_redial(100.0, has_pending=False))
        self.assertEqual(1.0, self.health.seconds_until_redial(100.0, has_pending=True))
        self.assertAlmostEqual(0.75, self.health.seconds_until_redial(100.25, has_pending=True))
        self.assertEqual(0.0, self.health.seconds_until_redial(131.0, has_pending=False))


class SlowTests(SynchronousTestCase):
    """
    An upstream whose answers are overdue.
    """

    def made_slow(self, health: Health, now: float) -> float:
        """
        Overdue questions, until it is slow; when it is to be tried again.
        """
        for _ in range(100):
            if wait := health.note_late(now):
                return wait
        raise AssertionError("not slow")

    def test_more_than_ten_overdue_queries_make_it_slow(self) -> None:
        """
        Up to ten overdue queries do not, nor as many among replies in time.
        """
        health = Health()
        self.assertEqual([0.0] * 10, [health.note_late(0.0) for _ in range(10)])
        health = Health()
        for _ in range(1000):
            health.note_late(0.0)
            health.note_in_time(3)
            self.assertFalse(health.is_slow)

    def test_pause_of_a_slow_upstream_doubles_to_half_a_minute(self) -> None:
        """
        Each trial that is still slow lengthens the pause, up to half a minute.
        """
        health = Health()
        waits = [self.made_slow(health, 0.0)] + [health.extend_slow_period(0.0) for _ in range(6)]
        self.assertEqual([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0], waits)

    def test_reply_in_time_after_the_pause_ends_slowness(self) -> None:
        """
        Once it was left alone long enough, an answer in time ends it; then it takes less to be slow again, for longer,
        unless a minute has passed.
        """
        health = Health()
        wait = self.made_slow(health, 0.0)
        health.trial_in_time(wait / 2)
        self.assertTrue(health.is_slow)
        health.trial_in_time(wait)
        self.assertFalse(health.is_slow)
        self.assertEqual(2.0, self.made_slow(health, 5.0))
        health.trial_in_time(7.0)
        self.assertEqual(1.0, self.made_slow(health, 80.0))

    def test_replies_in_time_clear_lateness(self) -> None:
        """
        Lateness is forgotten with answers in time.
        """
        health = Health()
        for _ in range(10):
            health.note_late(0.0)
        health.note_in_time(1000)
        self.assertEqual([0.0] * 10, [health.note_late(0.0) for _ in range(10)])

    def test_recent_outage_may_be_waited_out(self) -> None:
        """
        An upstream that went down a moment ago may be waited for, unless the identity is wrong.
        """
        health = Health()
        health.failed(REFUSED, 0.0, 0.0)
        self.assertEqual([True, False], [health.is_recent_outage(now, 0.0) for now in (9.0, 11.0)])
        health.failed(Untrusted("verify", "somebody else"), 0.0, 0.0)
        self.assertFalse(health.is_recent_outage(0.0, 0.0))


class DelayTests(SynchronousTestCase):
    """
    A duration from a count.
    """

    def test_delay_doubles_up_to_its_cap(self) -> None:
        """
        Without jitter each failure doubles the wait, until the cap.
        """
        self.assertEqual(
            [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0], [redial_delay(n, 0.0, MAX_DELAY_PENDING) for n in range(7)]
        )
        self.assertEqual([12.8, 25.6, 30.0, 30.0], [redial_delay(n, 0.0) for n in range(8, 12)])
        self.assertEqual(MAX_DELAY_IDLE, redial_delay(10**9, 0.0))
        self.assertEqual(0.0, redial_delay(-1, 0.0))

    @given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
    def test_jitter_adds_at_most_a_quarter(self, failures: int, jitter: float) -> None:
        """
        The wait is the one without jitter, and up to a quarter more.
        """
        least = redial_delay(failures, 0.0)
        self.assertTrue(least <= redial_delay(failures, jitter) <= least * 1.25)
        self.assertGreaterEqual(redial_delay(failures, jitter), 0.1)

    def test_jitter_is_added_to_the_capped_delay(self) -> None:
        """
        Proxies that have all reached the cap do not dial in step either, nor more than once a second.
        """
        self.assertAlmostEqual(0.1125, redial_delay(1, 0.5))
        self.assertEqual([30.0, 33.75], [redial_delay(99, 0.0), redial_delay(99, 0.5)])
        self.assertEqual(
            [1.0, 1.125], [redial_delay(99, 0.0, MAX_DELAY_PENDING), redial_delay(99, 0.5, MAX_DELAY_PENDING)]
        )
