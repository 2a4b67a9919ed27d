"""
In which order the upstreams are to be tried for a question.

Decides preference only; whether an upstream is up, and whether it has been tried already, is weighed
in ``attempts``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Order = Sequence[int]
Ordering = Callable[[], Order]
RandomBelow = Callable[[int], int]


def failover(count: int, random_below: RandomBelow) -> Ordering:
    """
    As they were given, each time.
    """
    order = tuple(range(count))
    return lambda: order


def round_robin(count: int, random_below: RandomBelow) -> Ordering:
    """
    Each is first in its turn; the ones after it follow.
    """
    orders = [tuple((first + i) % count for i in range(count)) for first in range(count)]
    turn = random_below(count) - 1

    def next_order() -> Order:
        nonlocal turn
        turn = (turn + 1) % count
        return orders[turn]

    return next_order


def at_random(count: int, random_below: RandomBelow) -> Ordering:
    """
    Each is first as often as any other, unpredictably, and so is each of those after it.
    """

    def shuffled() -> Order:
        rest = list(range(count))
        return tuple(rest.pop(random_below(len(rest))) for _ in range(count))

    return shuffled


#: The policies by the names they are configured by.
POLICIES: dict[str, Callable[[int, RandomBelow], Ordering]] = {
    "failover": failover,
    "round_robin": round_robin,
    "random": at_random,
}
