"""
Limits that are learned of one upstream: queries on a connection, connections, idle time.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.connection_limits import MAX_CONNECTIONS, IdleLimit, PerConnectionLimit, should_add_connection


class PerConnectionLimitTests(SynchronousTestCase):
    """
    What is learned of how connections end.
    """

    def limits(self, *answers: int) -> list[int | None]:
        """
        The limit after each ending.
        """
        limit = PerConnectionLimit()
        found: list[int | None] = []
        for count in answers:
            limit.ended(count)
            found.append(limit.limit)
        return found

    def test_three_similar_closes_set_a_limit(self) -> None:
        """
        Three closes after about as many replies set a limit, the least of them; a different one removes it.
        """
        self.assertEqual([None, None, 1, 1, None], self.limits(1, 1, 1, 2, 9))
        self.assertEqual([None, None, 95], self.limits(100, 95, 104))

    def test_limit_is_500_replies_and_a_tenth_of_difference_at_most(self) -> None:
        """
        Up to 500 replies; they differ by a tenth of the least at most, or by one.
        """
        self.assertEqual([500, None], [self.limits(count, count, count)[-1] for count in (500, 501)])
        self.assertEqual([100, None], [self.limits(100, 100, most)[-1] for most in (110, 111)])
        self.assertEqual([5, None], [self.limits(5, 5, most)[-1] for most in (6, 7)])

    def test_each_new_limit_is_reported_once(self) -> None:
        """
        Each new limit, once; what another worker has learned is not told, and is forgotten like any other.
        """
        told: list[int | None] = []
        limit = PerConnectionLimit(told.append)
        for _ in range(5):
            limit.ended(7)
        limit.forget()
        limit.forget()
        self.assertEqual([7, None], told)
        limit.ended(7)
        self.assertIsNone(limit.limit)
        limit.learn(4)
        limit.ended(4)
        self.assertEqual(([7, None], 4), (told, limit.limit))
        limit.learn(None)
        limit.ended(4)
        self.assertIsNone(limit.limit)

    def test_dissimilar_closes_set_no_limit(self) -> None:
        """
        Dissimilar closes set none, nor do those without a reply, nor those after very many.
        """
        self.assertEqual([None] * 6, self.limits(1, 7, 3, 50, 2, 9))
        self.assertEqual([None] * 4, self.limits(0, 0, 0, 0))
        self.assertEqual([None] * 3, self.limits(1000, 1000, 1000))


class ShouldAddConnectionTests(SynchronousTestCase):
    """
    Slow and many: both have to be.
    """

    def test_connection_is_added_by_latency_dial_time_and_load(self) -> None:
        """
        A table of (latency, dial time, in flight, connections) and the expected decision.
        """
        for case, wanted in {
            (0.2, 0.01, 8, 1): True,
            (0.2, 0.01, 7, 1): False,
            (0.2, 0.01, 16, 2): True,
            (0.2, 0.01, 15, 2): False,
            (0.2, 0.01, 1000, MAX_CONNECTIONS): False,
            (0.09, 0.01, 1000, 1): False,
            (0.2, 0.1, 1000, 1): False,
            (0.3, 0.1, 1000, 1): True,
        }.items():
            self.assertEqual(wanted, should_add_connection(*case), case)


class IdleTests(SynchronousTestCase):
    """
    When a connection is closed for nobody using it.
    """

    def test_idle_timeout_is_the_configured_one_at_most(self) -> None:
        """
        Without observations it is the configured one, which is never exceeded.
        """
        idle = IdleLimit(30.0)
        self.assertEqual(30.0, idle.next_timeout())
        idle.closed_by_peer(60.0)
        self.assertEqual(30.0, idle.next_timeout())

    def test_earlier_close_lowers_the_idle_timeout_and_it_grows_back(self) -> None:
        """
        It becomes a little less than the observed time, and grows back step by step.
        """
        idle = IdleLimit(30.0)
        idle.closed_by_peer(10.0)
        first, second = idle.next_timeout(), idle.next_timeout()
        self.assertEqual(9.0, first)
        self.assertTrue(first < second < 10.0)
        for _ in range(200):
            idle.next_timeout()
        self.assertEqual(30.0, idle.next_timeout())

    def test_close_after_0_2_seconds_counts_as_idle(self) -> None:
        """
        A close after 0.2 s is one for being idle; the next connection is idle for nine tenths of that, then 2 % longer.
        """
        for after, learned in ((0.19, 30.0), (0.2, 0.18), (1.0, 0.9)):
            idle = IdleLimit(30.0)
            idle.closed_by_peer(after)
            self.assertAlmostEqual(learned, idle.next_timeout())
        self.assertAlmostEqual(0.918, idle.next_timeout())

    def test_close_right_after_a_reply_is_not_idle(self) -> None:
        """
        What ends right after an answer does not end for being idle.
        """
        idle = IdleLimit(30.0)
        idle.closed_by_peer(0.01)
        self.assertEqual(30.0, idle.next_timeout())
