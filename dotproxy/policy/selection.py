"""
In which order the upstreams are to be tried for a question.

Decides preference only; whether an upstream is up, and whether it has been tried already, is weighed
in ``attempts``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2s
from typing import Protocol

from dotproxy.wire.message import HEADER_SIZE, QueryInfo


class Policy(StrEnum):
    """
    How upstreams are ordered for a query.
    """

    FAILOVER = "failover"
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    FASTEST = "fastest"
    LEAST_OUTSTANDING = "least_outstanding"
    HASH = "hash"
    RACE = "race"


Order = Sequence[int]
#: From a query and what was seen of it to an order.
Ordering = Callable[[bytes, QueryInfo], Order]
RandomBelow = Callable[[int], int]


class Candidate(Protocol):
    """
    What is known of an upstream.
    """

    weight: int

    @property
    def outstanding(self) -> int:
        """
        How many questions it has not answered yet.
        """

    @property
    def usual_latency(self) -> float | None:
        """
        What its answers usually take, in seconds; None while that is not known.
        """


@dataclass(frozen=True)
class Facts:
    """
    What policies decide from: the upstreams as they were given, chance, and a secret for ``hash``.
    """

    candidates: Sequence[Candidate]
    random_below: RandomBelow
    key: bytes = b""


def failover(facts: Facts) -> Ordering:
    """
    As they were given, each time.
    """
    order = tuple(range(len(facts.candidates)))
    return lambda query, info: order


def round_robin(facts: Facts) -> Ordering:
    """
    Each is first in its turn, as often as its weight says; the ones after it follow.
    """
    count = len(facts.candidates)
    orders = [
        tuple((first + i) % count for i in range(count))
        for first, candidate in enumerate(facts.candidates)
        for _ in range(candidate.weight)
    ]
    turn = facts.random_below(len(orders)) - 1

    def next_order(query: bytes, info: QueryInfo) -> Order:
        nonlocal turn
        turn = (turn + 1) % len(orders)
        return orders[turn]

    return next_order


def at_random(facts: Facts) -> Ordering:
    """
    Each is first as often as its weight says, unpredictably, and so is each of those after it.
    """
    weights = [candidate.weight for candidate in facts.candidates]

    def shuffled(query: bytes, info: QueryInfo) -> Order:
        rest = list(range(len(weights)))
        order: list[int] = []
        while rest:
            drawn = facts.random_below(sum(weights[index] for index in rest))
            for index in rest:
                drawn -= weights[index]
                if drawn < 0:
                    break
            rest.remove(index)
            order.append(index)
        return order

    return shuffled


def fastest(facts: Facts) -> Ordering:
    """
    The one whose answers usually take least is first; one nobody knows yet is before all, and every hundredth question
    goes to another, or a change would never be noticed.
    """
    candidates = facts.candidates
    indices = range(len(candidates))

    def by_latency(query: bytes, info: QueryInfo) -> Order:
        order = sorted(indices, key=lambda index: candidates[index].usual_latency or 0.0)
        if len(order) > 1 and not facts.random_below(100):
            order.insert(0, order.pop(1 + facts.random_below(len(order) - 1)))
        return order

    return by_latency


def least_outstanding(facts: Facts) -> Ordering:
    """
    The one with the fewest questions outstanding, for its weight, is first.
    """
    candidates = facts.candidates
    indices = range(len(candidates))
    return lambda query, info: sorted(
        indices, key=lambda index: candidates[index].outstanding / candidates[index].weight
    )


def by_hash(facts: Facts) -> Ordering:
    """
    Each domain has its own order, as often led by one upstream as its weight says: nobody sees everything, and what
    one sees is always the same (rendezvous hashing, under a secret).
    """
    entries = [(index, turn) for index, one in enumerate(facts.candidates) for turn in range(one.weight)]
    known: dict[bytes, Order] = {}

    def by_domain(query: bytes, info: QueryInfo) -> Order:
        domain = registrable(query[HEADER_SIZE : info.question_end - 4])
        order = known.get(domain)
        if order is None:
            ranked = sorted(entries, key=lambda entry: blake2s(b"%d %d " % entry + domain, key=facts.key).digest())
            order = tuple(dict.fromkeys(index for index, _ in ranked))
            if len(known) >= _REMEMBERED:
                known.clear()
            known[domain] = order
        return order

    return by_domain


_REMEMBERED = 8192


def registrable(name: bytes) -> bytes:
    """
    Return the domain that somebody registered, of which ``name`` (uncompressed wire form) is part, in lower case.

    Without a list of public suffixes: the last two labels, or three where the second is one of those, of three octets
    at most, under which countries have people register (co.uk, com.au).
    """
    starts: list[int] = []
    offset = 0
    while offset < len(name) and name[offset]:
        starts.append(offset)
        offset += 1 + name[offset]
    if len(starts) < 2:
        return name.lower()
    labels = 3 if len(starts) > 2 and name[starts[-1]] == 2 and name[starts[-2]] <= 3 else 2
    return name[starts[-labels] :].lower()


#: What each policy does.  ``RACE`` has the order of ``FAILOVER``, but the query is sent to all upstreams at once.
POLICIES: dict[Policy, Callable[[Facts], Ordering]] = {
    Policy.FAILOVER: failover,
    Policy.ROUND_ROBIN: round_robin,
    Policy.RANDOM: at_random,
    Policy.FASTEST: fastest,
    Policy.LEAST_OUTSTANDING: least_outstanding,
    Policy.HASH: by_hash,
    Policy.RACE: failover,
}
