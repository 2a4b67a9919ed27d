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
        self.assertEqual([0.0, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5], [delay(n, 0.0, CAP_ASKED) for n in range(7)])
        self.assertEqual([12.8, 25.6, 30.0, 30.0], [delay(n, 0.0) for n in range(8, 12)])
        self.assertEqual(CAP_UNASKED, delay(10**9, 0.0))
        self.assertEqual(0.0, delay(-1, 0.0))

    @given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
    def test_jitter_takes_off_at_most_half(self, failures: int, jitter: float) -> None:
        """
        Whatever the jitter, the wait is between half and the whole of what it would be.
        """
        whole = delay(failures, 0.0)
        self.assertTrue(whole / 2 <= delay(failures, jitter) <= whole)
        self.assertGreaterEqual(delay(failures, jitter), FIRST / 2)

    def test_jitter_comes_off_what_is_capped(self) -> None:
        """
        Proxies that have all reached the cap do not dial in step either.
        """
        self.assertAlmostEqual(0.075, delay(1, 0.5))
        self.assertEqual([30.0, 22.5], [delay(99, 0.0), delay(99, 0.5)])
