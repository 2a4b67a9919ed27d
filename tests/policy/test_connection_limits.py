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

    def test_three_alike(self) -> None:
        """
        Three endings after about as many answers are a rule, by the least of them; one that is other is its end.
        """
        self.assertEqual([None, None, 1, 1, None], self.limits(1, 1, 1, 2, 9))
        self.assertEqual([None, None, 95], self.limits(100, 95, 104))

    def test_the_bounds_of_a_rule(self) -> None:
        """
        Up to 500 answers; they differ by a tenth of the least at most, or by one.
        """
        self.assertEqual([500, None], [self.limits(count, count, count)[-1] for count in (500, 501)])
        self.assertEqual([100, None], [self.limits(100, 100, most)[-1] for most in (110, 111)])
        self.assertEqual([5, None], [self.limits(5, 5, most)[-1] for most in (6, 7)])

    def test_what_is_told(self) -> None:
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

    def test_no_rule(self) -> None:
        """
        Endings all over the place are none, nor are those without an answer, nor those after very many.
        """
        self.assertEqual([None] * 6, self.limits(1, 7, 3, 50, 2, 9))
        self.assertEqual([None] * 4, self.limits(0, 0, 0, 0))
        self.assertEqual([None] * 3, self.limits(1000, 1000, 1000))


class ShouldAddConnectionTests(SynchronousTestCase):
    """
    Slow and many: both have to be.
    """

    def test_when(self) -> None:
        """
        (took, dial, outstanding, standing) → whether.
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

    def test_what_was_configured(self) -> None:
        """
        As long as nothing else is known that is it, and it never is more.
        """
        idle = IdleLimit(30.0)
        self.assertEqual(30.0, idle.next_timeout())
        idle.closed_by_peer(60.0)
        self.assertEqual(30.0, idle.next_timeout())

    def test_a_server_that_closes_sooner(self) -> None:
        """
        Then it is a little less than that, and bit by bit more again.
        """
        idle = IdleLimit(30.0)
        idle.closed_by_peer(10.0)
        first, second = idle.next_timeout(), idle.next_timeout()
        self.assertEqual(9.0, first)
        self.assertTrue(first < second < 10.0)
        for _ in range(200):
            idle.next_timeout()
        self.assertEqual(30.0, idle.next_timeout())

    def test_from_0_2_seconds_on(self) -> None:
        """
        A close after 0.2 s is one for being idle; the next connection is idle for nine tenths of that, then 2 % longer.
        """
        for after, learned in ((0.19, 30.0), (0.2, 0.18), (1.0, 0.9)):
            idle = IdleLimit(30.0)
            idle.closed_by_peer(after)
            self.assertAlmostEqual(learned, idle.next_timeout())
        self.assertAlmostEqual(0.918, idle.next_timeout())

    def test_one_that_closed_at_once(self) -> None:
        """
        What ends right after an answer does not end for being idle.
        """
        idle = IdleLimit(30.0)
        idle.closed_by_peer(0.01)
        self.assertEqual(30.0, idle.next_timeout())
