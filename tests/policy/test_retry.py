"""
Whom to ask next.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.retry import (
    MAX_SENDS,
    Isolation,
    has_ended_enough,
    is_untried,
    isolation_of,
    next_upstream,
    next_upstreams,
    taken_back,
)


class NextUpstreamTests(SynchronousTestCase):
    """
    The next of several.
    """

    def test_preferred_upstream_is_first(self) -> None:
        """
        With all up and no attempts, the order decides.
        """
        self.assertEqual(2, next_upstream((2, 0, 1), (), (), lambda _: 0))

    def test_upstreams_that_are_up_come_before_those_down(self) -> None:
        """
        One that is down is chosen only when none is up that may be.
        """
        self.assertEqual(1, next_upstream((0, 1), (), (), lambda index: 0 if index == 1 else 2))
        self.assertEqual(1, next_upstream((0, 1), (1, 1), (), lambda index: 0 if index == 1 else 2))
        self.assertEqual(0, next_upstream((0, 1), (1, 1, 1), (), lambda index: 0 if index == 1 else 2))

    def test_upstream_with_fewest_attempts_comes_first(self) -> None:
        """
        Of those that are up, the one with the fewest attempts is next.
        """
        self.assertEqual(1, next_upstream((0, 1), (0,), (), lambda _: 0))
        self.assertEqual(0, next_upstream((0, 1), (0, 1), (), lambda _: 0))

    def test_upstream_is_chosen_even_if_all_are_down(self) -> None:
        """
        With all down the one with the fewest attempts is chosen.
        """
        self.assertEqual(0, next_upstream((0, 1), (), (), lambda _: 2))

    @given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=10).map(tuple), st.sets(st.integers(0, 3)))
    def test_order_is_up_then_fewest_attempts_then_preference(
        self, order: list[int], tried: tuple[int, ...], up: set[int]
    ) -> None:
        """
        Of those with fewer than three attempts: those up first, of them those with the fewest attempts, then by order.
        """
        may = [index for index in order if tried.count(index) < 3]
        ranked = sorted(may, key=lambda index: (index not in up, tried.count(index), order.index(index)))
        self.assertEqual(
            ranked[0] if ranked else None, next_upstream(order, tried, (), lambda index: 0 if index in up else 2)
        )

    @given(st.integers(1, 4), st.lists(st.booleans(), min_size=4, max_size=4))
    def test_no_upstream_is_chosen_after_three_attempts_each(self, count: int, up: list[bool]) -> None:
        """
        A query goes to each upstream three times at most, and then fails (RFC 9520 §3.1).
        """
        order, tried = tuple(range(count)), ()
        while (index := next_upstream(order, tried, (), up.__getitem__)) is not None:
            tried += (index,)
        self.assertEqual(3, MAX_SENDS)
        self.assertEqual(dict.fromkeys(order, 3), {index: tried.count(index) for index in order})

    def test_upstream_given_up_is_not_chosen_and_has_no_attempt(self) -> None:
        """
        One that is given up is not asked again, and counts as no attempt; one that is taken back does not count.
        """
        self.assertEqual(1, next_upstream((0, 1), (), (0,), lambda index: 0 if index == 0 else 2))
        self.assertIsNone(next_upstream((0,), (0,), (0,), lambda _: 0))
        self.assertEqual((2,), next_upstreams((0, 1, 2), (1,), (0,), (), lambda _: 0))
        self.assertEqual((True, False), (is_untried((0, 1), (0,), ()), is_untried((0, 1), (0,), (1,))))
        self.assertEqual((1, 0), taken_back((0, 1, 0), 0))
        self.assertEqual((0, 0), taken_back((0, 1, 0), 1))
        self.assertEqual(0, next_upstream((0,), taken_back((0, 0, 0), 0), (), lambda _: 0))


class NextUpstreamsTests(SynchronousTestCase):
    """
    The next, or all of them.
    """

    def test_one_upstream_is_chosen_while_one_is_up(self) -> None:
        """
        As long as one is up it alone is chosen.
        """
        self.assertEqual((1,), next_upstreams((0, 1, 2), (), (), (), lambda index: 0 if index > 0 else 2))

    def test_race_chooses_several_upstreams_the_first_time(self) -> None:
        """
        The first time as many as configured that are not down; after that one at a time.
        """
        tiers = (0, 2, 1)
        self.assertEqual((0, 2), next_upstreams((0, 1, 2), (), (), (), tiers.__getitem__, 3))
        self.assertEqual((2,), next_upstreams((0, 1, 2), (0, 2), (), (0,), tiers.__getitem__, 3))

    def test_slow_upstream_comes_between_up_and_down(self) -> None:
        """
        One that is slow is asked after those that are not, and before those that are down.
        """
        self.assertEqual((1,), next_upstreams((0, 1), (), (), (), (1, 0).__getitem__))
        self.assertEqual((1,), next_upstreams((0, 1), (), (), (), (2, 1).__getitem__))

    def test_all_upstreams_are_chosen_if_all_are_down(self) -> None:
        """
        With all down, all with the fewest attempts are sent the query together, for one of them may work again.
        """
        self.assertEqual((0, 1, 2), next_upstreams((0, 1, 2), (), (), (), lambda _: 2))
        self.assertEqual((1, 2), next_upstreams((0, 1, 2), (0,), (), (), lambda _: 2))

    def test_upstream_with_the_query_in_flight_is_not_chosen(self) -> None:
        """
        One that may still respond is not chosen again, and without another none is.
        """
        self.assertEqual((2,), next_upstreams((0, 1, 2), (0, 1), (), (0, 1), lambda _: 0))
        self.assertEqual((), next_upstreams((0,), (0,), (), (0,), lambda _: 0))

    def test_taking_back_a_missing_attempt_changes_nothing(self) -> None:
        """
        Nothing changes.
        """
        self.assertEqual((1, 1), taken_back((1, 1), 0))


class LostTests(SynchronousTestCase):
    """
    Queries whose connections ended.
    """

    def test_second_loss_isolates_and_the_third_send_is_the_last(self) -> None:
        """
        The first time it may share a connection with others that were lost, then not; the third send is the last.
        """
        self.assertEqual(Isolation.LOST, isolation_of(1, 0, 1))
        self.assertEqual(Isolation.LOST, isolation_of(1, 0, 2))
        for lost, alone, sends in ((2, 0, 1), (1, 1, 1), (1, 0, 3)):
            self.assertEqual(Isolation.LAST, isolation_of(lost, alone, sends))

    def test_query_is_blamed_after_two_own_connections_or_three_sends(self) -> None:
        """
        Two connections of its own that ended are enough, or one after three sends; but not before all were asked.
        """
        self.assertFalse(has_ended_enough((0,), (0, 0, 0), (), 0))
        self.assertFalse(has_ended_enough((0,), (0, 0), (), 1))
        self.assertTrue(has_ended_enough((0,), (0, 0), (), 2))
        self.assertTrue(has_ended_enough((0,), (0, 0, 0), (), 1))
        self.assertFalse(has_ended_enough((0, 1), (0, 0), (), 2))
        self.assertTrue(has_ended_enough((0, 1), (0, 0), (1,), 2))
        self.assertTrue(has_ended_enough((0, 1), (0, 1, 0), (), 2))
