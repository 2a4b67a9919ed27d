"""
The order in which upstreams are preferred for a query.

Decides preference only; whether an upstream is up, and whether the query was sent to it before, is decided in
``retry``.
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
#: From a query and its info to an order of upstream indices.
Ordering = Callable[[bytes, QueryInfo], Order]
RandomBelow = Callable[[int], int]


class UpstreamMetrics(Protocol):
    """
    What an ordering may know of an upstream.
    """

    weight: int

    @property
    def outstanding(self) -> int:
        """
        The queries in flight to it.
        """

    @property
    def usual_latency(self) -> float | None:
        """
        Its median response time in seconds, None before the first response.
        """


@dataclass(frozen=True)
class OrderingInputs:
    """
    What orderings decide from: the upstreams as configured, random numbers, and a secret for ``hash``.
    """

    candidates: Sequence[UpstreamMetrics]
    random_below: RandomBelow
    key: bytes = b""


def failover(facts: OrderingInputs) -> Ordering:
    """
    Return an ordering that is always that of the configuration.
    """
    order = tuple(range(len(facts.candidates)))
    return lambda query, info: order


def round_robin(facts: OrderingInputs) -> Ordering:
    """
    Return an ordering in which each upstream is first in turn, as often as its weight says; the next ones follow.
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


def at_random(facts: OrderingInputs) -> Ordering:
    """
    Return an ordering that is random, weighted by the upstreams' weights.
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


def fastest(facts: OrderingInputs) -> Ordering:
    """
    Return an ordering by median response time, upstreams without one first.

    One query in a hundred goes to another upstream first: otherwise a change of the others would never be noticed.
    """
    candidates = facts.candidates
    indices = range(len(candidates))

    def by_latency(query: bytes, info: QueryInfo) -> Order:
        order = sorted(indices, key=lambda index: candidates[index].usual_latency or 0.0)
        if len(order) > 1 and not facts.random_below(100):
            order.insert(0, order.pop(1 + facts.random_below(len(order) - 1)))
        return order

    return by_latency


def least_outstanding(facts: OrderingInputs) -> Ordering:
    """
    Return an ordering by queries in flight, divided by the weight.
    """
    candidates = facts.candidates
    indices = range(len(candidates))
    return lambda query, info: sorted(
        indices, key=lambda index: candidates[index].outstanding / candidates[index].weight
    )


def by_hash(facts: OrderingInputs) -> Ordering:
    """
    Return an ordering by registrable domain (rendezvous hashing under a secret), weighted by the upstreams' weights.

    No upstream sees all domains, and each domain is always seen by the same one.
    """
    entries = [(index, turn) for index, one in enumerate(facts.candidates) for turn in range(one.weight)]
    known: dict[bytes, Order] = {}

    def by_domain(query: bytes, info: QueryInfo) -> Order:
        domain = registrable_domain(query[HEADER_SIZE : info.question_end - 4])
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


def registrable_domain(name: bytes) -> bytes:
    """
    Return the registrable domain of ``name`` (uncompressed wire form), in lower case.

    No list of public suffixes is used: it is the last two labels, or three below a country's second-level domain of
    three octets at most (co.uk, com.au).
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
ORDERINGS: dict[Policy, Callable[[OrderingInputs], Ordering]] = {
    Policy.FAILOVER: failover,
    Policy.ROUND_ROBIN: round_robin,
    Policy.RANDOM: at_random,
    Policy.FASTEST: fastest,
    Policy.LEAST_OUTSTANDING: least_outstanding,
    Policy.HASH: by_hash,
    Policy.RACE: failover,
}
