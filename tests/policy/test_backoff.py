"""
How long to wait before dialling again.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.backoff import CAP_ASKED, CAP_UNASKED, FIRST, delay


class DelayTests(SynchronousTestCase):
    """
    A duration from a count.
    """

    def test_it_doubles_up_to_its_cap(self) -> None:
        """
        Without jitter each failure doubles the wait, until the cap.
        """
        self.assertEqual([0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0], [delay(n, 0.0, CAP_ASKED) for n in range(7)])
        self.assertEqual([12.8, 25.6, 30.0, 30.0], [delay(n, 0.0) for n in range(8, 12)])
        self.assertEqual(CAP_UNASKED, delay(10**9, 0.0))
        self.assertEqual(0.0, delay(-1, 0.0))

    @given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
    def test_jitter_adds_at_most_a_quarter(self, failures: int, jitter: float) -> None:
        """
        Whatever the jitter, the wait is what it would be without, and up to a quarter more.
        """
        least = delay(failures, 0.0)
        self.assertTrue(least <= delay(failures, jitter) <= least * 1.25)
        self.assertGreaterEqual(delay(failures, jitter), FIRST)

    def test_jitter_is_added_to_what_is_capped(self) -> None:
        """
        Proxies that have all reached the cap do not dial in step either, nor more than once a second.
        """
        self.assertAlmostEqual(0.1125, delay(1, 0.5))
        self.assertEqual([30.0, 33.75], [delay(99, 0.0), delay(99, 0.5)])
        self.assertEqual([1.0, 1.125], [delay(99, 0.0, CAP_ASKED), delay(99, 0.5, CAP_ASKED)])
