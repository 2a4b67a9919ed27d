"""
The packet cache: responses of the current second, by the octets of the query without its ID.

Decides when entries are removed: at the end of the second, and all at once when there are too many.  The caller rounds
the age of a response up to the end of the second, so that no TTL is too high.  Refuses to know what is in a message.
"""

from __future__ import annotations

#: The most entries of one kind of listener.  More queries than this do not repeat within a second.
MAX_ENTRIES = 10000

#: The most octets of a query and its response together.  Longer ones are rare, and would let a client fill the memory.
MAX_OCTETS = 1500


class PacketEntry:
    """
    A response without its ID: ``octets``; ``hits`` since the last ``flush_counts``; ``index`` in ``counts``.
    """

    __slots__ = ("hits", "index", "octets")

    def __init__(self, octets: bytes, index: int) -> None:
        self.octets = octets
        self.hits = 0
        self.index = index


class PacketCache:
    """
    Responses by query without its ID, for each kind of listener.

    ``counts`` are the caller's counters of responses, ``hits`` is the number of cache hits, both as of the last
    ``flush_counts``.
    """

    __slots__ = ("_entries", "_second", "counts", "hits")

    def __init__(self, counts: list[int]) -> None:
        self._second = -1
        self._entries: tuple[dict[bytes, PacketEntry], ...] = ({}, {}, {}, {})
        self.counts = counts
        self.hits = 0

    def __repr__(self) -> str:
        entries = [entry for of_kind in self._entries for entry in of_kind.values()]
        hits = self.hits + sum(entry.hits for entry in entries)
        return f"<{type(self).__name__}: {len(entries)} entries, {hits} hits>"

    def entries_for(self, now: float, kind: int) -> dict[bytes, PacketEntry]:
        """
        Return the entries that are valid now for listeners of a kind, by query without its ID.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            self.clear()
        entries = self._entries[kind]
        if len(entries) > MAX_ENTRIES:
            self.clear()
        return entries

    def response(self, now: float, kind: int, query: bytes) -> bytes | None:
        """
        Return the response to a query that is valid now, if there is one, and count the hit.
        """
        entry = self.entries_for(now, kind).get(query[2:])
        if entry is None:
            return None
        entry.hits += 1
        return query[:2] + entry.octets

    def add(self, kind: int, query: bytes, response: bytes, index: int) -> None:
        """
        Add the response to a query of a listener of this kind; ``index`` is where ``counts`` has its hits.
        """
        self._entries[kind][query[2:]] = PacketEntry(response[2:], index)

    def flush_counts(self) -> None:
        """
        Add the hits of each entry to ``counts`` and ``hits``.
        """
        for entries in self._entries:
            for entry in entries.values():
                if entry.hits:
                    self.counts[entry.index] += entry.hits
                    self.hits += entry.hits
                    entry.hits = 0

    def clear(self) -> None:
        """
        Remove all entries; their hits are counted first.
        """
        self.flush_counts()
        for entries in self._entries:
            entries.clear()
