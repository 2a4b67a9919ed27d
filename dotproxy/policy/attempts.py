"""
Which upstream is asked next, if any.

Decides from an order of preference, who is up, and where the question has been sent already.
"""

from __future__ import annotations

from collections.abc import Callable

from dotproxy.policy.selection import Order

#: RFC 9520 §3.1: a question goes to one server no more than three times.
MAX_SENDS = 3

#: A question whose connection ended after answering others was not at fault, and is sent again without
#: that being counted; but it may be what ends them all, so not without end.
MAX_FORGIVEN = 12


def next_upstream(order: Order, tried: tuple[int, ...], is_up: Callable[[int], bool]) -> int | None:
    """
    Return the upstream to ask next, or None if all that may be asked have been.

    ``tried`` holds an upstream once for each time the question was sent to it.  Those that are up come
    first, of them those asked least, of those the most preferred.  With all of them down the least
    asked is tried all the same: to ask is the only way to find out.
    """
    best = None
    best_rank = (True, MAX_SENDS)
    for index in order:
        rank = (not is_up(index), tried.count(index))
        if rank[1] < MAX_SENDS and rank < best_rank:
            best, best_rank = index, rank
    return best


def given_up(tried: tuple[int, ...], index: int) -> tuple[int, ...]:
    """
    Return ``tried`` with upstream ``index`` not to be asked again.
    """
    return tried + (index,) * MAX_SENDS


def forgiven(tried: tuple[int, ...], index: int) -> tuple[int, ...]:
    """
    Return ``tried`` with one sending to upstream ``index`` not counted.
    """
    at = tried.index(index)
    return tried[:at] + tried[at + 1 :]
