"""
What was answered within this second, by the very octets of the question.

Decides nothing but when to forget: as the second ends, to whose end the ages of what is put in are rounded up, so that
no TTL is ever too high, or when there is no room.
"""

from __future__ import annotations

from typing import Any

#: So many answers are remembered at most; there is no second in which more are asked for twice.
MAX_ENTRIES = 10000

#: Query and answer together may have so many octets: what is longer is rare, and would let a client fill the memory.
MAX_OCTETS = 1500


class PacketCache:
    """
    Goes from a query to its answer, for each kind of listener.

    ``counts`` is where answers are counted, ``hits`` how many were given from here, both as of the last ``settle``.
    """

    __slots__ = ("_memos", "_second", "counts", "hits")

    def __init__(self, counts: list[int]) -> None:
        self._second = -1
        self._memos: tuple[dict[bytes, list[Any]], ...] = ({}, {}, {}, {})
        self.counts = counts
        self.hits = 0

    def entries_for(self, now: float, kind: int) -> dict[bytes, list[Any]]:
        """
        Return what is true now for listeners of a kind: from a query without its ID to a list of the answer without its
        ID, how often it was given, and its place in ``counts``.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            self.clear()
        memo = self._memos[kind]
        if len(memo) > MAX_ENTRIES:
            self.clear()
        return memo

    def response(self, now: float, kind: int, query: bytes) -> bytes | None:
        """
        Return the response to a query that is true now, if there is one, and count it.
        """
        known = self.entries_for(now, kind).get(query[2:])
        if known is None:
            return None
        known[1] += 1
        return query[:2] + bytes(known[0])

    def add(self, kind: int, query: bytes, answer: bytes, place: int) -> None:
        """
        Remember the answer to a query that came to a listener of a kind, and its place in ``counts``.
        """
        self._memos[kind][query[2:]] = [answer[2:], 0, place]

    def flush_counts(self) -> None:
        """
        Count what was given.
        """
        for memo in self._memos:
            for remembered in memo.values():
                _, times, place = remembered
                if times:
                    self.counts[place] += times
                    self.hits += times
                    remembered[1] = 0

    def clear(self) -> None:
        """
        Forget everything.
        """
        self.flush_counts()
        for memo in self._memos:
            memo.clear()
