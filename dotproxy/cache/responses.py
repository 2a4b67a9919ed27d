"""
The cache: answers by question, while they are fresh, and for a while longer in case nobody has a fresh one.

Decides what is kept, what is fresh, what is stale but better than nothing (RFC 8767), and what is worth asking anew
before it ends.  Time is seconds on a clock that also counts sleep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dotproxy.cache.key import name_in
from dotproxy.cache.s3fifo import Store
from dotproxy.cache.ttl import Limits, freshness
from dotproxy.policy.budget import Budget
from dotproxy.wire.edns import EDE_STALE_ANSWER, EDE_STALE_NXDOMAIN, ExtendedError, ede_option
from dotproxy.wire.message import NXDOMAIN
from dotproxy.wire.parsed_response import ParsedResponse

#: The TTL stale records are given (RFC 8767 §5), in seconds.
STALE_TTL = 30

#: An entry is refreshed in the last tenth of its life, if that was not a short one.
_LAST = 0.1
_SHORT = 10.0

#: Of what clients ask, as much again may be asked to refresh what is popular.
_REFRESHED = 0.1

#: What an entry takes beside its octets: two tuples, two floats, places in a dictionary and a queue, the heads
#: of the objects that hold octets, and what the allocator rounds up; as measured.
OVERHEAD = 445

#: What it takes to remember that an entry was asked for: a number, and its places in a set, as measured.
NOTE_SIZE = 90

#: A place in a tuple, and the number there if it is not one of those that Python has once for all.
_PLACE, _NUMBER, _LARGEST_SHARED = 8, 32, 256

_EXTENDED_ERRORS = {False: ExtendedError(EDE_STALE_ANSWER, ""), True: ExtendedError(EDE_STALE_NXDOMAIN, "")}


#: A named tuple is made by a function in Python, which takes longer.
_new = tuple.__new__


class CacheEntry(NamedTuple):
    """
    A cached response: fresh from ``stored_at`` to ``expires_at``.  If the two are equal, its TTLs are ``STALE_TTL``.
    """

    stored_at: float
    expires_at: float
    response: ParsedResponse


class CacheSettings(NamedTuple):
    """
    The settings that a reload can change.

    ``limits``: bounds of TTLs; ``stale_for``: how long a stale response may be served after it expired, in seconds, 0
    for never; ``prefetches``: whether entries in demand are refreshed before they expire.
    """

    limits: Limits = Limits()
    stale_for: float = 0.0
    prefetches: bool = True


class ResponseCache:
    """
    At most ``entries`` responses and about ``octets`` of memory.
    """

    def __init__(self, settings: CacheSettings, *, entries: int, octets: int) -> None:
        self._limits, self._stale_for, _ = settings
        self._store: Store[CacheEntry] = Store(entries, octets, _size_of, NOTE_SIZE)
        self._refreshes = _prefetch_budget(settings)

    def apply_settings(self, settings: CacheSettings) -> None:
        """
        Use these settings from now on; entries stay as they are.
        """
        self._limits, self._stale_for, _ = settings
        self._refreshes = _prefetch_budget(settings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} entries, {self.octets} octets, {self.evicted} evicted>"

    def __len__(self) -> int:
        return len(self._store)

    def __contains__(self, key: bytes) -> bool:
        return key in self._store

    @property
    def octets(self) -> int:
        """
        What it holds takes about so much memory.
        """
        return self._store.octets

    @property
    def evicted(self) -> int:
        """
        How many had to go for others.
        """
        return self._store.evicted

    def peek(self, key: bytes) -> CacheEntry | None:
        """
        Return the answer, if it is there, fresh or not.
        """
        return self._store.peek(key)

    def note_hit(self, key: bytes, entry: CacheEntry, now: float) -> bool:
        """
        Take note that a fresh answer was given; return whether it should be asked for anew: it is about to expire, it
        was asked for before, and not too much is being refreshed.
        """
        stored, expires, _ = entry
        is_due = expires - now < _LAST * (expires - stored)
        is_popular = is_due and expires - stored >= _SHORT and self._store.was_asked_for(key)
        self._store.use(key)
        return is_popular and self._refreshes.try_spend()

    def stale(self, key: bytes, now: float) -> ParsedResponse | None:
        """
        Return an answer that is not fresh any more but may still be given, marked as what it is (RFC 8914 §4.4, §4.20).
        """
        if not self._stale_for:
            return None
        entry = self._store.get(key)
        if entry is None or now >= entry.expires_at + self._stale_for:
            return None
        stored, expires, answer = entry
        if stored < expires:
            answer = answer.with_ttl(STALE_TTL)
            if expires <= now:  # it is never fresh again: the next client gets what is made now
                self._store.replace(key, _new(CacheEntry, (expires, expires, answer)))
        mark = ede_option(_EXTENDED_ERRORS[answer.rcode == NXDOMAIN])
        return answer._replace(options=answer.options + mark)

    def add(self, key: bytes, answer: ParsedResponse, qtype: int, now: float, date: int) -> ParsedResponse:
        """
        Keep an answer, if it may be kept; return it as clients get it.

        ``date`` is in seconds since 1970: signatures end by it.
        """
        lifetime, answer = freshness(answer, qtype, self._limits, date)
        if lifetime > 0:
            self._store.put(key, _new(CacheEntry, (now, now + lifetime, answer)))
        return answer

    def credit_prefetch(self, questions: int) -> None:
        """
        Take note of how much clients ask, which is what refreshing is measured by.
        """
        self._refreshes.credit(questions)

    def flush(self) -> int:
        """
        Forget everything; return how many answers that were.
        """
        return self._store.clear()

    def flush_name(self, name: bytes) -> int:
        """
        Forget what is known of one name, in wire form.
        """
        folded = name.lower()
        return self._store.remove([key for key, _ in self._store.items() if name_in(key) == folded])

    def flush_subtree(self, name: bytes) -> int:
        """
        Forget what is known of a name, in wire form, and of all below it.
        """
        folded = name.lower()
        return self._store.remove([key for key, _ in self._store.items() if _is_in(name_in(key), folded)])

    def entries(self) -> Iterator[tuple[bytes, CacheEntry]]:
        """
        Yield all there is, with its keys.
        """
        return self._store.items()

    def restore(self, entries: Iterable[tuple[bytes, CacheEntry]], now: float) -> None:
        """
        Take back what was known before, but for what is known better now, of no use any more, or from a time that has
        not come yet, since a clock that was wrong would keep it for ever.
        """
        for key, entry in entries:
            if entry.stored_at <= now + 1 and key not in self._store and now < entry.expires_at + self._stale_for:
                self._store.put(key, entry)


def _prefetch_budget(settings: CacheSettings) -> Budget:
    return Budget(_REFRESHED if settings.prefetches else 0.0)


def _is_in(name: bytes, zone: bytes) -> bool:
    if not name.endswith(zone):
        return False
    offset = 0
    while len(name) - offset > len(zone):
        offset += name[offset] + 1
    return len(name) - offset == len(zone)


def _size_of(key: bytes, entry: CacheEntry) -> int:
    _, _, body, ttls, _, options, _, marks = entry.response
    of_each = _PLACE + _NUMBER if ttls and ttls[-1] > _LARGEST_SHARED else _PLACE
    return OVERHEAD + len(key) + len(body) + len(options) + of_each * len(ttls) + len(marks)
