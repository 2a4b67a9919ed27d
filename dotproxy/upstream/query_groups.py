"""
Isolated queries, in groups that share a connection.

Decides how many share one: each is alone if they are few, or if it is their last attempt.
"""

from __future__ import annotations

from collections import deque

from dotproxy.policy.retry import Isolation
from dotproxy.upstream.connection import OutgoingQuery

#: More queries than this are sent in this number of groups instead of each alone.
MAX_GROUPS = 8

#: The most queries of an unusual kind that share a connection.
UNUSUAL_TOGETHER = 16


class QueryGroup:
    """
    Queries that share a connection; without any, a probe is sent to find out whether the upstream replies.

    ``is_background``: it is sent after the others.
    """

    __slots__ = ("is_background", "isolation", "queries")

    def __init__(self, queries: list[OutgoingQuery], isolation: Isolation, *, is_background: bool = False) -> None:
        self.queries = queries
        self.isolation = isolation
        self.is_background = is_background

    @property
    def is_unusual(self) -> bool:
        """
        Whether its queries are of an unusual kind.
        """
        return self.is_background and self.isolation is not Isolation.KNOWN


def grouped(queries: list[OutgoingQuery], isolation: Isolation, *, is_background: bool) -> list[QueryGroup]:
    """
    Return the groups in which queries are sent, in the order of the queries.
    """
    count = len(queries)
    size = -(-count // MAX_GROUPS) if isolation is Isolation.LOST and count > MAX_GROUPS else 1
    return [QueryGroup(queries[at : at + size], isolation, is_background=is_background) for at in range(0, count, size)]


def joined(waiting: deque[QueryGroup]) -> QueryGroup:
    """
    Remove and return the first waiting group, joined with the next ones if all of them are of unusual queries.
    """
    group = waiting.popleft()
    while (
        group.isolation is Isolation.UNUSUAL
        and waiting
        and waiting[0].isolation is Isolation.UNUSUAL
        and len(group.queries) < UNUSUAL_TOGETHER
    ):
        group.queries += waiting.popleft().queries
    return group
