"""
What one TCP client may have others wait for, or keep in memory.

Decides how many queries of a connection are handed on at once, and which connections are ended when clients together
have too many octets of responses unread.  Refuses to know connections: they are whatever the caller has for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final, TypeVar

#: Queries handed on at once: of a connection that is new, and at most.
FIRST_BATCH: Final = 4
MAX_BATCH: Final = 32

#: Queries in flight of a connection that is new, and of one whose client has others that do not read.  With each
#: response that the client takes there may be one more.
FIRST_WINDOW: Final = 4
_WINDOW_OF_OTHERS: Final = 1

#: For so long, in seconds, a client is one that does not read after a connection was ended for that.
DOES_NOT_READ_FOR: Final = 30.0

#: Octets of responses to one batch that are many: then queries are handed on one by one.
_LARGE: Final = 32 << 10

#: Octets of responses that a client has not read: of one connection, and of all.
MAX_UNREAD: Final = 2 << 20
MAX_UNREAD_IN_ALL: Final = 32 << 20

#: When they are too many in all, connections are ended until there are no more than this.
_UNREAD_AFTERWARDS: Final = MAX_UNREAD_IN_ALL - (MAX_UNREAD_IN_ALL >> 3)

_Connection = TypeVar("_Connection")


def first_window(*, does_not_read: bool) -> int:
    """
    Return how many queries a new connection may have in flight, by whether its client has others that do not read.
    """
    return _WINDOW_OF_OTHERS if does_not_read else FIRST_WINDOW


def next_batch(size: int, octets: int) -> int:
    """
    Return how many queries to hand on at once after so many were, and so many octets of responses came at once.
    """
    if octets > _LARGE:
        return 1
    return size * 2 if size < MAX_BATCH else MAX_BATCH


def most_unread(unread: Iterable[tuple[_Connection, str, int]], limit: int = _UNREAD_AFTERWARDS) -> list[_Connection]:
    """
    Return the connections to end so that no more than ``limit`` octets are unread: each time the one with most, of the
    client prefix with most.

    ``unread`` holds of each connection the client's prefix and how many octets are unread.
    """
    by_prefix: dict[str, list[tuple[int, int, _Connection]]] = {}
    total = 0
    for number, (connection, prefix, octets) in enumerate(unread):
        by_prefix.setdefault(prefix, []).append((-octets, number, connection))
        total += octets
    for connections in by_prefix.values():
        heapify(connections)
    prefixes = [(sum(one[0] for one in connections), prefix) for prefix, connections in by_prefix.items()]
    heapify(prefixes)
    ended: list[_Connection] = []
    while total > limit:
        less_all, prefix = heappop(prefixes)
        less, _, connection = heappop(by_prefix[prefix])
        ended.append(connection)
        total += less
        if by_prefix[prefix]:
            heappush(prefixes, (less_all - less, prefix))
    return ended
