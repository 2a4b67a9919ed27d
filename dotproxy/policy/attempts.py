"""
Which upstream is asked next, if any.

Decides from an order of preference, who is up, and where the question has been sent already.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from dotproxy.policy.health import Tier
from dotproxy.policy.selection import Order

#: RFC 9520 §3.1: a question goes to one server no more than three times.
MAX_SENDS = 3

#: A question whose connection ended after answering others was not at fault, and is sent again without
#: that being counted; but it may be what ends them all, so not without end.
MAX_FORGIVEN = 12


def next_upstream(order: Order, tried: tuple[int, ...], tier_of: Callable[[int], int]) -> int | None:
    """
    Return the upstream to ask next, or None if all that may be asked have been.

    ``tried`` holds an upstream once for each time the question was sent to it.  Those of the
    best tier come first, of them those asked least, of those the most preferred.  With all of them down the least
    asked is tried all the same: to ask is the only way to find out.
    """
    best = None
    best_rank = (Tier.DOWN + 1, 0)
    for index in order:
        rank = (tier_of(index), tried.count(index))
        if rank[1] < MAX_SENDS and rank < best_rank:
            best, best_rank = index, rank
    return best


def next_upstreams(
    order: Order, tried: tuple[int, ...], busy: Collection[int], tier_of: Callable[[int], int], width: int = 1
) -> tuple[int, ...]:
    """
    Return whom to ask next: one upstream that is not down (``width`` of them the first time), or, if there is none,
    all of those asked least at once, so that whichever works again first answers; nobody, if all that may be asked
    have been.

    Those ``busy`` with the question already are not asked.
    """
    free = [index for index in order if index not in busy]
    first = next_upstream(free, tried, tier_of)
    if first is None:
        return ()
    if tier_of(first) < Tier.DOWN:
        if width == 1 or tried:
            return (first,)
        return tuple(index for index in free if tier_of(index) < Tier.DOWN)[:width]
    return tuple(index for index in free if tried.count(index) == tried.count(first))


def given_up(tried: tuple[int, ...], index: int) -> tuple[int, ...]:
    """
    Return ``tried`` with upstream ``index`` not to be asked again.
    """
    return tried + (index,) * MAX_SENDS


def taken_back(indices: tuple[int, ...], index: int) -> tuple[int, ...]:
    """
    Return ``indices`` with one ``index`` fewer, if there is one.
    """
    if index not in indices:
        return indices
    at = indices.index(index)
    return indices[:at] + indices[at + 1 :]
