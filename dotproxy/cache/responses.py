"""
The cache: responses by question, until they expire, and longer to serve them stale.

Decides what is fresh, what may be served stale (RFC 8767), and which entries are refreshed before they expire.  Times
are in seconds on a clock that counts suspend, unless stated otherwise.
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

#: The TTL of stale records (RFC 8767 §5), in seconds.
STALE_TTL = 30

#: An entry is refreshed in the last tenth of its lifetime, if that is 10 s or longer.
_LAST = 0.1
_SHORT = 10.0

#: Queries that refresh entries are at most this fraction of clients' queries.
_REFRESHED = 0.1

#: The memory that an entry takes beside its octets, in octets, as measured: two tuples, two floats, slots in a
#: dictionary and a queue, headers of the bytes objects, and the allocator's rounding.
OVERHEAD = 445

#: The memory that a noted hit takes, in octets, as measured: an int, and its slots in a set.
NOTE_SIZE = 90

#: A slot in a tuple, an int of its own, both in octets, and the largest int that Python shares.
_PLACE, _NUMBER, _LARGEST_SHARED = 8, 32, 256

_EXTENDED_ERRORS = {False: ExtendedError(EDE_STALE_ANSWER, ""), True: ExtendedError(EDE_STALE_NXDOMAIN, "")}


#: The constructor of a named tuple is written in Python, which takes longer.
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
        The memory that entries take, in octets, estimated.
        """
        return self._store.octets

    @property
    def evicted(self) -> int:
        """
        The number of entries evicted for others.
        """
        return self._store.evicted

    def peek(self, key: bytes) -> CacheEntry | None:
        """
        Return the entry of a key, fresh or not; None without one.
        """
        return self._store.peek(key)

    def note_hit(self, key: bytes, entry: CacheEntry, now: float) -> bool:
        """
        Note a hit of a fresh entry; return whether to refresh it: it is in the last tenth of its lifetime, it had a hit
        before, and the budget of refreshes is not spent.
        """
        stored, expires, _ = entry
        is_due = expires - now < _LAST * (expires - stored)
        is_popular = is_due and expires - stored >= _SHORT and self._store.was_asked_for(key)
        self._store.use(key)
        return is_popular and self._refreshes.try_spend()

    def stale(self, key: bytes, now: float) -> ParsedResponse | None:
        """
        Return a stale response, with the Extended DNS Error "Stale Answer" or "Stale NXDOMAIN Answer" (RFC 8914 §4.4,
        §4.20); None without one.
        """
        if not self._stale_for:
            return None
        entry = self._store.get(key)
        if entry is None or now >= entry.expires_at + self._stale_for:
            return None
        stored, expires, answer = entry
        if stored < expires:
            answer = answer.with_ttl(STALE_TTL)
            if expires <= now:  # it is never fresh again: keep the rewritten response for the next client
                self._store.replace(key, _new(CacheEntry, (expires, expires, answer)))
        mark = ede_option(_EXTENDED_ERRORS[answer.rcode == NXDOMAIN])
        return answer._replace(options=answer.options + mark)

    def add(self, key: bytes, answer: ParsedResponse, qtype: int, now: float, date: int) -> ParsedResponse:
        """
        Add a response, if it may be cached; return it with the TTLs that clients get.

        ``date`` is in seconds since 1970: signatures expire by it.
        """
        lifetime, answer = freshness(answer, qtype, self._limits, date)
        if lifetime > 0:
            self._store.put(key, _new(CacheEntry, (now, now + lifetime, answer)))
        return answer

    def credit_prefetch(self, questions: int) -> None:
        """
        Add the refreshes that this number of clients' queries allows to the budget.
        """
        self._refreshes.credit(questions)

    def flush(self) -> int:
        """
        Remove all entries; return their number.
        """
        return self._store.clear()

    def flush_name(self, name: bytes) -> int:
        """
        Remove the entries of one name, in wire form; return their number.
        """
        folded = name.lower()
        return self._store.remove([key for key, _ in self._store.items() if name_in(key) == folded])

    def flush_subtree(self, name: bytes) -> int:
        """
        Remove the entries of a name, in wire form, and of all names below it; return their number.
        """
        folded = name.lower()
        return self._store.remove([key for key, _ in self._store.items() if _is_in(name_in(key), folded)])

    def entries(self) -> Iterator[tuple[bytes, CacheEntry]]:
        """
        Yield all entries with their keys.
        """
        return self._store.items()

    def restore(self, entries: Iterable[tuple[bytes, CacheEntry]], now: float) -> None:
        """
        Add saved entries, except those whose key has an entry, those too old to be served stale, and those stored in
        the future: after the correction of a wrong clock they would be kept for too long.
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
