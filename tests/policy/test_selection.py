"""
In which order upstreams are tried.
"""

import itertools
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.selection import POLICIES


class OrderingTests(SynchronousTestCase):
    """
    Each policy.
    """

    def test_every_order_names_every_upstream_once(self) -> None:
        """
        Whatever the policy, and however many upstreams there are, none is left out.
        """
        for make in POLICIES.values():
            for count in (1, 2, 5):
                ordering = make(count, Random(1).randrange)
                for _ in range(20):
                    self.assertEqual(list(range(count)), sorted(ordering()))

    def test_failover_keeps_the_order(self) -> None:
        """
        The first upstream is first each time.
        """
        ordering = POLICIES["failover"](3, Random(1).randrange)
        self.assertEqual([(0, 1, 2)] * 3, [tuple(ordering()) for _ in range(3)])

    def test_round_robin_takes_turns(self) -> None:
        """
        Each is first in turn, and those after it follow in order.
        """
        ordering = POLICIES["round_robin"](3, lambda _: 0)
        self.assertEqual([(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 1, 2)], [tuple(ordering()) for _ in range(4)])

    def test_round_robin_begins_anywhere(self) -> None:
        """
        Many proxies started together do not all begin with the same upstream.
        """
        firsts = []
        for start in range(3):
            asked: list[int] = []
            ordering = POLICIES["round_robin"](3, lambda below, start=start, asked=asked: asked.append(below) or start)
            firsts.append(ordering()[0])
            self.assertEqual([3], asked)
        self.assertEqual([0, 1, 2], firsts)

    def test_random_draws_each_place(self) -> None:
        """
        Each place is drawn from those that are left, so that every order is as likely as any other.
        """
        orders = set()
        for draws in itertools.product(range(3), range(2), range(1)):
            drawn = iter(zip(draws, (3, 2, 1), strict=True))

            def below(count: int, drawn: object = drawn) -> int:
                value, expected = next(drawn)
                self.assertEqual(expected, count)
                return value

            orders.add(POLICIES["random"](3, below)())
        self.assertEqual(set(itertools.permutations(range(3))), orders)

    def test_random_is_even(self) -> None:
        """
        Each is first about as often as the others.
        """
        ordering = POLICIES["random"](4, Random(7).randrange)
        firsts = [ordering()[0] for _ in range(4000)]
        for index in range(4):
            self.assertTrue(850 < firsts.count(index) < 1150, firsts.count(index))
