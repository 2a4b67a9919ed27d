"""
What was answered within this second, by the very octets of the question.

Decides nothing but when to forget: as the second ends, so that no TTL is ever a second late, or when there is no room.
"""

from __future__ import annotations

#: So many answers are remembered at most; there is no second in which more are asked for twice.
MOST = 20000


class Memo:
    """
    ``datagrams`` and ``streams`` go from a query to its answer, both without their IDs.
    """

    __slots__ = ("_second", "datagrams", "streams")

    def __init__(self) -> None:
        self._second = -1
        self.datagrams: dict[bytes, bytes] = {}
        self.streams: dict[bytes, bytes] = {}

    def at(self, now: float, *, is_stream: bool) -> dict[bytes, bytes]:
        """
        Return what is true now, to be looked into and added to.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            self.clear()
        memo = self.streams if is_stream else self.datagrams
        if len(memo) > MOST:
            memo.clear()
        return memo

    def clear(self) -> None:
        """
        Forget everything.
        """
        self.datagrams.clear()
        self.streams.clear()
