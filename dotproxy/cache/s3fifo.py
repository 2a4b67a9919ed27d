"""
A bounded store that keeps what is asked for again: S3-FIFO.

Decides what is thrown out when there is no room.  New entries wait in a small queue; those that were asked for while
there move on to the main one, the others go, so that a scan of names that are asked for once cannot empty the store.
What went is remembered for a while, and if it comes again it is not new (Yang et al., "FIFO queues are all you need
for cache eviction", SOSP 2023).  ``benchmarks/eviction.py`` compares it with others.  Knows nothing of what it keeps.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")

#: The small queue has this share of the entries.
_SMALL = 0.1


class Store(Generic[Value]):
    """
    At most so many entries and octets, as ``size_of`` counts them, and ``note_size`` for each that was asked for.
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
        # Hashes of the keys that were asked for: the keys that come with queries are other objects, of any size.
        self._used: set[int] = set()
        self._small: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        # Hashes of what was thrown out, each in the place its value says: one in a store's worth is forgotten early.
        self._ghosts = array("q", bytes(8 * max(1, max_entries)))
        self._octets = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def octets(self) -> int:
        """
        How much memory it takes.
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
        Return what is kept under a key, and note that it was asked for.
        """
        value = self._entries.get(key)
        if value is not None:
            self._used.add(hash(key))
        return value

    def use(self, key: bytes) -> None:
        """
        Note that what is kept under a key was asked for.
        """
        self._used.add(hash(key))

    def peek(self, key: bytes) -> Value | None:
        """
        Return what is kept under a key.
        """
        return self._entries.get(key)

    def was_asked_for(self, key: bytes) -> bool:
        """
        Whether what is kept under a key was asked for since it was put there, or was spared for it.
        """
        return hash(key) in self._used

    def put(self, key: bytes, value: Value) -> None:
        """
        Keep a value, in place of what was under its key; throw out what there is no room for.
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
            place = hash(key)
            is_known = self._ghosts[place % len(self._ghosts)] == place
            (self._main if is_known else self._small).append(key)
        if len(entries) > self._max_entries or self._octets + self._note_size * len(self._used) > self._max_octets:
            self._make_room()

    def replace(self, key: bytes, value: Value) -> None:
        """
        Keep a value of the same size in the place of what is kept under a key.
        """
        self._entries[key] = value

    def remove(self, keys: Iterable[bytes]) -> int:
        """
        Remove these; return how many there were.
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
        Remove everything; return how many there were.
        """
        return self.remove(tuple(self._entries))

    def _make_room(self) -> None:
        entries, small, main, used, ghosts = self._entries, self._small, self._main, self._used, self._ghosts
        note_size = self._note_size
        while entries and (len(entries) > self._max_entries or self._octets + note_size * len(used) > self._max_octets):
            is_small = len(small) > max(1, self._max_entries * _SMALL) or not main
            key = (small if is_small else main).popleft()
            place = hash(key)
            if place in used:
                used.discard(place)
                main.append(key)
                continue
            if is_small:
                ghosts[place % len(ghosts)] = place
            self._octets -= self._size_of(key, entries.pop(key))
            self.evicted += 1
