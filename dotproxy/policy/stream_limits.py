"""
Limits of TCP clients: queries processed at once, queries in flight, octets of unread responses.

Decides how many queries of a connection are processed at once, and which connections are ended when clients leave too
many octets of responses unread.  Refuses to know connections: they are opaque values of the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final, TypeVar

#: Queries of a connection that are processed at once: at first, and at most.
INITIAL_BATCH: Final = 4
MAX_BATCH: Final = 32

#: Queries in flight of a new connection, and of one whose client prefix recently left responses unread.  Each response
#: that the client reads allows one more.
INITIAL_WINDOW: Final = 4
_WINDOW_AFTER_UNREAD: Final = 1

#: Seconds for which new connections of a client prefix start small after one was ended for unread responses.
NOT_READING_SECONDS: Final = 30.0

#: If a batch's responses have more octets, queries are processed one by one.
_LARGE_BATCH_OCTETS: Final = 32 << 10

#: Octets of unread responses at most: of one connection, and of all.
MAX_UNREAD_PER_CONNECTION: Final = 2 << 20
MAX_UNREAD_TOTAL: Final = 32 << 20

#: When there are more in all, connections are ended until no more than this are left.
_UNREAD_TARGET: Final = MAX_UNREAD_TOTAL - (MAX_UNREAD_TOTAL >> 3)

_Connection = TypeVar("_Connection")


def initial_window(*, has_unread_peers: bool) -> int:
    """
    Return how many queries a new connection may have in flight.
    """
    return _WINDOW_AFTER_UNREAD if has_unread_peers else INITIAL_WINDOW


def next_batch(size: int, octets: int) -> int:
    """
    Return how many queries to process at once after ``size`` were, and responses of ``octets`` came at once.
    """
    if octets > _LARGE_BATCH_OCTETS:
        return 1
    return size * 2 if size < MAX_BATCH else MAX_BATCH


def connections_to_end(
    unread: Iterable[tuple[_Connection, str, int]], limit: int = _UNREAD_TARGET
) -> list[_Connection]:
    """
    Return the connections to end so that no more than ``limit`` octets are unread: each time the one with the most, of
    the client prefix with the most.

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
