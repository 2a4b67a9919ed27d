"""
A bounded store with the eviction policy S3-FIFO.

Decides which entries are evicted.  New entries go to a small queue; those that had a hit there move on to the main one,
the others are evicted, so that a scan of many names cannot empty the store.  Hashes of evicted keys are kept for a
while; an entry whose key is among them goes to the main queue at once (Yang et al., "FIFO queues are all you need for
cache eviction", SOSP 2023).  ``benchmarks/eviction.py`` compares it with others.  Refuses to know what values are.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")

#: The small queue has this fraction of the entries.
_SMALL = 0.1


class Store(Generic[Value]):
    """
    At most ``max_entries`` entries and ``max_octets`` octets: ``size_of`` each, and ``note_size`` for each that had a
    hit.
    """

    __slots__ = (
        *("_entries", "_ghosts", "_main", "_max_entries", "_max_octets", "_note_size", "_octets", "_size_of"),
        *("_small", "_used", "evicted"),
    )

    def __init__(
        self, max_entries: int, max_octets: int, size_of: Callable[[bytes, Value], int], note_size: int = 0
    ) -> None:
        self._max_entries = max_entries
        self._max_octets = max_octets
        self._size_of = size_of
        self._note_size = note_size
        self._entries: dict[bytes, Value] = {}
        # Hashes of keys that had a hit: to keep the key of a query would keep another object, of any size.
        self._used: set[int] = set()
        self._small: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        # Hashes of evicted keys, each at the index of its value; a newer one replaces an older one.
        self._ghosts = array("q", bytes(8 * max(1, max_entries)))
        self._octets = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def octets(self) -> int:
        """
        The memory that entries take, in octets, as ``size_of`` and ``note_size`` have it.
        """
        return self._octets + self._note_size * len(self._used)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def items(self) -> Iterator[tuple[bytes, Value]]:
        """
        Yield every entry.
        """
        yield from self._entries.items()

    def get(self, key: bytes) -> Value | None:
        """
        Return the value of a key, and note a hit; None without one.
        """
        value = self._entries.get(key)
        if value is not None:
            self._used.add(hash(key))
        return value

    def use(self, key: bytes) -> None:
        """
        Note a hit of a key.
        """
        self._used.add(hash(key))

    def peek(self, key: bytes) -> Value | None:
        """
        Return the value of a key, without a note; None without one.
        """
        return self._entries.get(key)

    def was_asked_for(self, key: bytes) -> bool:
        """
        Return whether a key had a hit since it was added, or since a hit last kept it from eviction.
        """
        return hash(key) in self._used

    def put(self, key: bytes, value: Value) -> None:
        """
        Add a value, or replace that of its key; evict entries if there is no room.
        """
        entries = self._entries
        self._octets += self._size_of(key, value)
        before = len(entries)
        old = entries.setdefault(key, value)
        if len(entries) == before:
            entries[key] = value
            self._octets -= self._size_of(key, old)
            self._used.discard(hash(key))
        else:
            digest = hash(key)
            is_known = self._ghosts[digest % len(self._ghosts)] == digest
            (self._main if is_known else self._small).append(key)
        if len(entries) > self._max_entries or self._octets + self._note_size * len(self._used) > self._max_octets:
            self._make_room()

    def replace(self, key: bytes, value: Value) -> None:
        """
        Replace the value of a key by one of the same size.
        """
        self._entries[key] = value

    def remove(self, keys: Iterable[bytes]) -> int:
        """
        Remove keys; return the number of entries removed.
        """
        removed = 0
        for key in keys:
            value = self._entries.pop(key, None)
            if value is not None:
                removed += 1
                self._octets -= self._size_of(key, value)
                self._used.discard(hash(key))
        if removed:
            self._small = deque(key for key in self._small if key in self._entries)
            self._main = deque(key for key in self._main if key in self._entries)
        return removed

    def clear(self) -> int:
        """
        Remove all entries; return their number.
        """
        return self.remove(tuple(self._entries))

    def _make_room(self) -> None:
        entries, small, main, used, ghosts = self._entries, self._small, self._main, self._used, self._ghosts
        note_size = self._note_size
        while entries and (len(entries) > self._max_entries or self._octets + note_size * len(used) > self._max_octets):
            is_small = len(small) > max(1, self._max_entries * _SMALL) or not main
            key = (small if is_small else main).popleft()
            digest = hash(key)
            if digest in used:
                used.discard(digest)
                main.append(key)
                continue
            if is_small:
                ghosts[digest % len(ghosts)] = digest
            self._octets -= self._size_of(key, entries.pop(key))
            self.evicted += 1
