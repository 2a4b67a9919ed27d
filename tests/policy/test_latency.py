"""
When an answer is late.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.budget import BURST, Budget
from dotproxy.policy.latency import MIN_HEDGE, MIN_OVERDUE, Latency


class LatencyTests(SynchronousTestCase):
    """
    What is learned of an upstream's answers.
    """

    def test_timeout_is_the_floor_without_replies(self) -> None:
        """
        Without answers the floor is all there is.
        """
        latency = Latency()
        self.assertEqual((MIN_OVERDUE, MIN_OVERDUE), (latency.overdue_after(1.5), latency.hedge_after(1.5)))
        self.assertEqual(0.1, latency.overdue_after(0.1))

    def test_fast_upstream_has_the_minimum_timeouts(self) -> None:
        """
        The retry timeout is a quarter of a second at least, the hedge delay a twentieth.
        """
        latency = Latency()
        for _ in range(200):
            latency.note(0.002)
        self.assertEqual((0.002, 0.002), (latency.p50, latency.p95))
        self.assertEqual((MIN_OVERDUE, MIN_HEDGE), (latency.overdue_after(1.5), latency.hedge_after(1.5)))

    def test_slower_replies_raise_the_timeout_up_to_the_limit(self) -> None:
        """
        Where replies take longer, the timeout is longer, up to the limit.
        """
        latency = Latency()
        for _ in range(200):
            latency.note(0.6)
        self.assertEqual((1.2, 0.6), (latency.overdue_after(1.5), latency.hedge_after(1.5)))
        self.assertEqual(1.0, latency.overdue_after(1.0))

    @given(st.lists(st.floats(0, 10), min_size=1, max_size=400))
    def test_figures_are_those_of_the_last_replies(self, seconds: list[float]) -> None:
        """
        The figures are those of the last replies, and in order.
        """
        latency = Latency()
        for one in seconds:
            latency.note(one)
        assert latency.p50 is not None
        assert latency.p95 is not None
        self.assertTrue(min(seconds) <= latency.p50 <= latency.p95 <= max(seconds))
        for _ in range(200):
            latency.note(11.0)
        self.assertEqual(11.0, latency.p50)

    def test_percentiles_are_computed_with_the_first_response_and_every_sixteen(self) -> None:
        """
        Between these they stay as they are.
        """
        latency = Latency()
        latency.note(0.1)
        self.assertEqual((0.1, 0.1), (latency.p50, latency.p95))
        for turn in (0.5, 0.9):
            before = (latency.p50, latency.p95)
            for _ in range(15):
                latency.note(turn)
                self.assertEqual(before, (latency.p50, latency.p95))
            latency.note(turn)
            self.assertEqual(turn, latency.p95)
        self.assertEqual(0.5, latency.p50)

    def test_percentiles_are_those_of_the_last_128_responses(self) -> None:
        """
        Each response beyond these replaces the oldest one.
        """
        latency = Latency()
        seconds = [((number * 7919) % 1009) / 1000 for number in range(128 * 3 + 1)]
        for count, one in enumerate(seconds, 1):
            latency.note(one)
            if count % 16 == 1:
                latest = sorted(seconds[max(0, count - 128) : count])
                expected = (latest[len(latest) // 2], latest[len(latest) * 95 // 100])
                self.assertEqual(expected, (latency.p50, latency.p95), count)

    def test_floors(self) -> None:
        """
        No query is overdue before 0.25 s, or hedged before 0.05 s.
        """
        self.assertEqual((0.25, 0.05), (MIN_OVERDUE, MIN_HEDGE))


class HedgeTests(SynchronousTestCase):
    """
    How many may be asked twice.
    """

    def test_three_in_a_hundred_are_hedged_after_the_burst(self) -> None:
        """
        After the first burst three of a hundred, however many queries there are.
        """
        budget = Budget(0.03)
        self.assertFalse(budget.is_off)
        self.assertEqual(BURST, sum(budget.try_spend() for _ in range(1000)))
        budget.credit(100)
        self.assertEqual(3, sum(budget.try_spend() for _ in range(1000)))
        budget.credit(1000000)
        self.assertEqual(BURST, sum(budget.try_spend() for _ in range(1000)))

    def test_share_of_zero_hedges_nothing(self) -> None:
        """
        With no share there is never any.
        """
        budget = Budget(0)
        budget.credit(1000)
        self.assertEqual((True, False), (budget.is_off, budget.try_spend()))
