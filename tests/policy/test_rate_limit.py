"""
A token bucket.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.rate_limit import RateLimit


class RateLimitTests(SynchronousTestCase):
    """
    So often a second.
    """

    def test_burst_of_a_second_then_the_rate(self) -> None:
        """
        A second's worth at once, after that one for each part of a second.
        """
        limit = RateLimit(20.0, 5.0)
        for _ in range(20):
            self.assertGreater(limit.available(5.0), 0)
            limit.take()
        self.assertEqual(0, limit.available(5.0))
        self.assertEqual(1, limit.available(5.06))
        self.assertEqual(20, limit.available(500.0))

    @given(st.lists(st.floats(0, 0.5), max_size=100))
    def test_sum_never_exceeds_a_burst_and_the_rate(self, waits: list[float]) -> None:
        """
        In any sequence, what is taken is at most a second's worth and the rate.
        """
        limit, now, taken = RateLimit(10.0, 0.0), 0.0, 0
        for wait in waits:
            now += wait
            while limit.available(now):
                limit.take()
                taken += 1
        self.assertLessEqual(taken, 10 + 10 * now + 1e-6)
