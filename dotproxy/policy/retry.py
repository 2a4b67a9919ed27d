"""
Which upstream is asked next, if any.

Decides from an order of preference, who is up, and where the question has been sent already.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import IntEnum

from dotproxy.policy.health import Tier
from dotproxy.policy.selection import Order

#: RFC 9520 §3.1: a question goes to one server no more than three times.
MAX_SENDS = 3

#: So many upstreams may respond with an error, SERVFAIL or REFUSED, before the client gets one.
MAX_ERROR_RESPONSES = 3

#: A query that was alone on so many connections when they ended is what ended them.
MAX_LOST_ALONE = 2


class Isolation(IntEnum):
    """
    On which connection a query is sent, and why not on the one that all share.
    """

    #: On the connection that all share.
    NONE = 0
    #: Apart: it was outstanding when a connection ended.
    LOST = 1
    #: Apart, and on a connection that has answered before, as this is the last attempt.
    LAST = 2
    #: Apart: its question, or its zone, is known to end connections.
    KNOWN = 3
    #: Apart: it cannot be cached or joined, and servers treat the likes of it unlike others.
    UNUSUAL = 4


def next_upstream(
    order: Order, tried: tuple[int, ...], given_up: Collection[int], tier_of: Callable[[int], int]
) -> int | None:
    """
    Return the upstream to ask next, or None if all that may be asked have been.

    ``tried`` holds an upstream once for each time the query was sent to it, ``given_up`` those it must not be sent to
    again.  Those of the best tier come first, of them those asked least, of those the most preferred.  With all of them
    down the least asked is tried all the same: to ask is the only way to find out.
    """
    best = None
    best_rank = (Tier.DOWN + 1, 0)
    for index in order:
        rank = (tier_of(index), tried.count(index))
        if rank[1] < MAX_SENDS and rank < best_rank and index not in given_up:
            best, best_rank = index, rank
    return best


def next_upstreams(
    order: Order,
    tried: tuple[int, ...],
    given_up: Collection[int],
    busy: Collection[int],
    tier_of: Callable[[int], int],
    width: int = 1,
) -> tuple[int, ...]:
    """
    Return whom to ask next: one upstream that is not down (``width`` of them the first time), or, if there is none,
    all of those asked least at once, so that whichever works again first answers; nobody, if all that may be asked
    have been.

    Those ``busy`` with the query already are not asked, nor those ``given_up``.
    """
    free = [index for index in order if index not in busy and index not in given_up]
    first = next_upstream(free, tried, (), tier_of)
    if first is None:
        return ()
    if tier_of(first) < Tier.DOWN:
        if width == 1 or tried:
            return (first,)
        return tuple(index for index in free if tier_of(index) < Tier.DOWN)[:width]
    return tuple(index for index in free if tried.count(index) == tried.count(first))


def is_untried(order: Order, tried: Collection[int], given_up: Collection[int]) -> bool:
    """
    Return whether there is an upstream that was not asked yet and may be.
    """
    return any(index not in tried and index not in given_up for index in order)


def isolation_of(lost: int, lost_alone: int, sends: int) -> Isolation:
    """
    Return how to send a query that was lost with so many connections, to an upstream for the ``sends``-th time.
    """
    return Isolation.LAST if lost > 1 or lost_alone or sends >= MAX_SENDS else Isolation.LOST


def has_ended_enough(order: Order, tried: Collection[int], given_up: Collection[int], lost_alone: int) -> bool:
    """
    Return whether a query that was alone on so many connections when they ended is sent to nobody any more.

    Once may be the upstream's doing; twice is the query's, and so is once after it was sent as often as may be, unless
    there is an upstream that has not been asked.
    """
    is_culprit = lost_alone >= MAX_LOST_ALONE or (lost_alone > 0 and len(tried) >= MAX_SENDS)
    return is_culprit and not is_untried(order, tried, given_up)


def taken_back(indices: tuple[int, ...], index: int) -> tuple[int, ...]:
    """
    Return ``indices`` with one ``index`` fewer, if there is one.
    """
    if index not in indices:
        return indices
    at = indices.index(index)
    return indices[:at] + indices[at + 1 :]
