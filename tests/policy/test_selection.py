"""
In which order upstreams are tried.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.selection import ORDERINGS, Order, OrderingInputs, registrable_domain
from dotproxy.testing.client import make_query
from dotproxy.wire.message import parse_query
from dotproxy.wire.names import from_text


@dataclass
class Candidate:
    """
    An upstream, as far as policies look.
    """

    weight: int = 1
    outstanding: int = 0
    usual_latency: float | None = None


def make(
    policy: str,
    candidates: int | list[Candidate],
    random_below: Callable[[int], int] | None = None,
    key: bytes = b"",
) -> Callable[..., Order]:
    """
    An ordering, to be called with a name.
    """
    upstreams = [Candidate() for _ in range(candidates)] if isinstance(candidates, int) else candidates
    ordering = ORDERINGS[policy](OrderingInputs(upstreams, random_below or Random(1).randrange, key))

    def order(name: str = "www.example.") -> Order:
        query = make_query(name, 1)
        return ordering(query, parse_query(query))

    return order


class OrderingTests(SynchronousTestCase):
    """
    Each policy.
    """

    def test_every_order_names_every_upstream_once(self) -> None:
        """
        Whatever the policy, and however many upstreams there are, none is left out.
        """
        for policy in ORDERINGS:
            for count in (1, 2, 5):
                ordering = make(policy, [Candidate(weight=number % 2 + 1) for number in range(count)])
                for number in range(20):
                    self.assertEqual(list(range(count)), sorted(ordering(f"n{number}.example.")))

    def test_failover_keeps_the_order(self) -> None:
        """
        The first upstream is first each time, also where all are queried at once.
        """
        for policy in ("failover", "race"):
            ordering = make(policy, 3)
            self.assertEqual([(0, 1, 2)] * 3, [tuple(ordering()) for _ in range(3)])

    def test_round_robin_takes_turns(self) -> None:
        """
        Each is first in turn, and those after it follow in order.
        """
        ordering = make("round_robin", 3, lambda _: 0)
        self.assertEqual([(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 1, 2)], [tuple(ordering()) for _ in range(4)])

    def test_round_robin_starts_at_a_random_upstream(self) -> None:
        """
        Many proxies started together do not all begin with the same upstream.
        """
        firsts = []
        for start in range(3):
            asked: list[int] = []
            ordering = make("round_robin", 3, lambda below, start=start, asked=asked: asked.append(below) or start)
            firsts.append(ordering()[0])
            self.assertEqual([3], asked)
        self.assertEqual([0, 1, 2], firsts)

    def test_round_robin_honours_weights(self) -> None:
        """
        Of four turns one with weight 3 has three.
        """
        ordering = make("round_robin", [Candidate(weight=3), Candidate()], lambda _: 0)
        self.assertEqual([0, 0, 0, 1] * 2, [ordering()[0] for _ in range(8)])

    def test_random_makes_every_order_equally_likely(self) -> None:
        """
        Each place is drawn from the upstreams that are left.
        """
        orders = set()
        for draws in itertools.product(range(3), range(2), range(1)):
            drawn = iter(zip(draws, (3, 2, 1), strict=True))

            def below(count: int, drawn: object = drawn) -> int:
                value, expected = next(drawn)
                self.assertEqual(expected, count)
                return value

            orders.add(tuple(make("random", 3, below)()))
        self.assertEqual(set(itertools.permutations(range(3))), orders)

    def test_random_without_weights_is_even(self) -> None:
        """
        Each is first about as often as the others.
        """
        ordering = make("random", 4, Random(7).randrange)
        firsts = [ordering()[0] for _ in range(4000)]
        for index in range(4):
            self.assertTrue(850 < firsts.count(index) < 1150, firsts.count(index))

    def test_random_honours_weights(self) -> None:
        """
        One with three times the weight is first three times as often.
        """
        ordering = make("random", [Candidate(weight=3), Candidate()], Random(7).randrange)
        firsts = Counter(ordering()[0] for _ in range(4000))
        self.assertTrue(2800 < firsts[0] < 3200, firsts)

    def test_fastest_prefers_untried_then_the_fastest(self) -> None:
        """
        One without measurements comes first, then the fastest; every hundredth query goes to another.
        """
        candidates = [Candidate(usual_latency=0.03), Candidate(usual_latency=0.01), Candidate()]
        ordering = make("fastest", candidates, lambda below: below - 1)
        self.assertEqual([2, 1, 0], list(ordering()))
        candidates[2].usual_latency = 0.02
        self.assertEqual([1, 2, 0], list(ordering()))
        self.assertEqual([2, 1, 0], list(make("fastest", candidates, lambda below: 0)()))

    def test_least_outstanding_prefers_the_fewest_in_flight_by_weight(self) -> None:
        """
        The one with the fewest queries in flight, for its weight, comes first.
        """
        candidates = [Candidate(outstanding=3), Candidate(outstanding=2), Candidate(weight=4, outstanding=4)]
        self.assertEqual([2, 1, 0], list(make("least_outstanding", candidates)()))


class HashTests(SynchronousTestCase):
    """
    Names shared out among upstreams.
    """

    def test_domain_keeps_its_upstream(self) -> None:
        """
        All names of a domain, however spelled, have one order; under another secret it is another.
        """
        ordering = make("hash", 5, key=b"one")
        orders = {ordering(name) for name in ("example.org.", "www.EXAMPLE.org.", "a.b.example.Org.")}
        self.assertEqual(1, len(orders))
        other = make("hash", 5, key=b"two")
        names = [f"domain{number}.org." for number in range(50)]
        self.assertNotEqual([ordering(name)[0] for name in names], [other(name)[0] for name in names])

    def test_domains_are_shared_by_weight(self) -> None:
        """
        Each has its share of domains, by its weight, also of more than are cached.
        """
        ordering = make("hash", [Candidate(), Candidate(weight=3)], key=b"k")
        firsts = Counter(ordering(f"d{number}.org.")[0] for number in range(9000))
        self.assertTrue(6450 < firsts[1] < 7050, firsts)

    def test_removed_upstream_moves_only_its_own_domains(self) -> None:
        """
        Without one upstream, the domains of the others stay where they were.
        """
        three, two = make("hash", 3, key=b"k"), make("hash", 2, key=b"k")
        for number in range(200):
            name = f"d{number}.org."
            first = three(name)[0]
            if first != 2:
                self.assertEqual(first, two(name)[0])

    def test_domain_has_two_labels_or_three_below_short_ones(self) -> None:
        """
        Two labels, or three where countries register below short ones.
        """
        for name, domain in {
            "www.example.org.": "example.org.",
            "example.org.": "example.org.",
            "a.www.bbc.co.uk.": "bbc.co.uk.",
            "co.uk.": "co.uk.",
            "www.example.com.au.": "example.com.au.",
            "www.example.info.pl.": "info.pl.",
            "www.co.example.": "co.example.",
            "www.example.de.": "example.de.",
            "org.": "org.",
            ".": ".",
        }.items():
            self.assertEqual(from_text(domain), registrable_domain(from_text(name)))

    @given(st.binary(max_size=30))
    def test_malformed_names_are_accepted(self, octets: bytes) -> None:
        """
        Octets that are no name raise nothing.
        """
        self.assertIsInstance(registrable_domain(octets), bytes)
