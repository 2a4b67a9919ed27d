"""
Limits for one client: queries per second, queries in flight, and octets of queries in flight.

Decides by the client's address alone.  A client is a prefix: by default an IPv4 address, or an IPv6 /56.  Two rules:

* A client may have as many queries in flight as there are free places in the table (dynamic thresholds, Choudhury and
  Hahne, 1998).  So one client can use half of the table, two clients a third each, and a client with few queries in
  flight always finds a place.
* Under overload, a token bucket limits the rate of each client.  There is no limit at other times, or if only one
  client is active.

Refuses to know the question of a query, and the response to a client above its limit.

UDP addresses can be forged.  Therefore memory does not grow with the number of addresses, and new prefixes share one
account, ``unknown_clients``, until they have been active for ``_KNOWN_AFTER_SECONDS`` or completed a TCP handshake.
"""

from __future__ import annotations

from typing import Final

from dotproxy.policy.client_prefix import BITS_V4, address_of, prefix_of
from dotproxy.policy.rate_limit import RateLimit
from dotproxy.policy.share_settings import ShareSettings

#: Number of queries that a client may send before its bucket is checked again.
CREDIT_SIZE: Final = 64

#: Credit of exempt clients.
_UNLIMITED: Final = 1 << 60

#: Seconds after its first query when a prefix gets its own account.
_KNOWN_AFTER_SECONDS: Final = 1.0

#: Maximum numbers of addresses and of prefixes in the tables.
MAX_HOSTS: Final = 8192
MAX_PREFIXES: Final = 8192

#: Prefixes checked in one eviction, and the number evicted if all of them were active.
_SCAN_SIZE: Final = 2048
_MIN_EVICTED: Final = 64

#: Addresses of one prefix that an eviction keeps.
_MAX_HOSTS_PER_PREFIX: Final = 16

#: Maximum octets of queries in flight, of all clients together.
MAX_IN_FLIGHT_OCTETS: Final = 16 << 20

#: Maximum number of datagrams in one read.
FULL_BATCH: Final = 64

#: Seconds of full reads after which a receive queue means overload and not a burst, how long the overload state lasts
#: then, and how long after it a client above its rate can prolong it.
_STANDING_QUEUE_SECONDS: Final = 0.02
_OVERLOAD_SECONDS: Final = 2.0
_STANDING_QUEUE_MEMORY: Final = 10.0

#: Maximum number of responses per second to clients above their rate.
_SHED_RESPONSES_PER_SECOND: Final = 2000.0

#: Seconds between counts of active clients under overload, between them once several were active, and how long that
#: result is used.
_SCAN_INTERVAL: Final = 0.1
_SCAN_INTERVAL_CONTENDED: Final = 2.0
_CONTENDED_SECONDS: Final = 60.0


class ClientShare:
    """
    The state of one client: its queries in flight, its connections and its token bucket.

    ``credit``: number of queries that it may send before the bucket is checked.  ``account``: the share that its
    queries in flight are charged to, its own or ``unknown_clients``.  ``connections``, ``unread`` (octets) and
    ``does_not_read_until`` are updated by the TCP listeners.
    """

    __slots__ = (
        "account",
        "connections",
        "credit",
        "does_not_read_until",
        "filled_at",
        "granted",
        "in_flight",
        "is_exempt",
        "is_served",
        "octets",
        "prefix",
        "since",
        "tokens",
        "unread",
        "used",
    )

    def __init__(self, prefix: str, now: float, tokens: float) -> None:
        self.prefix = prefix
        self.is_served = True
        self.is_exempt = False
        self.credit = self.granted = 0
        self.tokens = tokens
        self.filled_at = self.since = now
        self.used = 0
        self.does_not_read_until = 0.0
        self.in_flight = self.octets = self.connections = self.unread = 0
        self.account: ClientShare = self

    def __repr__(self) -> str:
        return f"<ClientShare {self.prefix} in_flight={self.in_flight} connections={self.connections}>"

    @property
    def is_empty(self) -> bool:
        """
        Whether it has no query in flight, no connection and no unread octets.
        """
        return not (self.in_flight or self.connections or self.unread)


class ClientShares:
    """
    Owns: the share of each recent client, and the totals of all clients.

    ``in_flight`` and ``octets`` are totals.  ``by_host`` has the shares by IP address; the hot path reads it directly,
    and calls ``share_of`` only for an address that is missing there.
    """

    def __init__(self, settings: ShareSettings) -> None:
        self.by_host: dict[str, ClientShare] = {}
        self.in_flight = self.octets = 0
        self.overloaded_until = 0.0
        self._by_prefix: dict[str, ClientShare] = {}
        #: By listener: the time since which each read has returned ``FULL_BATCH`` datagrams.
        self.full_since: dict[object, float] = {}
        self._stood_at = 0.0
        self._scanned_at = -1.0
        self._contended_until = -1.0
        self._shed_answers: RateLimit | None = None
        self._is_allowed, self.max_in_flight, self._limits = settings
        #: Shared by all addresses that are not served, and by all new prefixes.
        self.refused = ClientShare("refused", 0.0, 0.0)
        self.refused.is_served = False
        self.unknown_clients = ClientShare("unknown", 0.0, self._limits.rate)

    def apply_settings(self, settings: ShareSettings) -> None:
        """
        Use these settings from now on.  Clients keep their queries in flight and their credit, unless prefix lengths or
        exempt networks change, which decide what is one client.
        """
        if settings.limits._replace(rate=0) != self._limits._replace(rate=0):
            self._by_prefix.clear()
        self._is_allowed, self.max_in_flight, self._limits = settings
        self.by_host.clear()

    def __len__(self) -> int:
        return len(self._by_prefix)

    def share_of(self, host: str, now: float) -> ClientShare:
        """
        Return the share of a client by its IP address, in the form that sockets use; ``""`` is this process itself.
        """
        share = self.by_host.get(host)
        if share is None:
            if len(self.by_host) >= MAX_HOSTS:
                self._evict_hosts()
            share = self.by_host[host] = self._find(host, now)
        return share

    def verify(self, share: ClientShare) -> None:
        """
        Mark a client's address as genuine, because it has completed a TCP handshake.
        """
        if share.account is self.unknown_clients:
            self._mark_known(share)

    def note_batch(self, listener: object, count: int, now: float) -> None:
        """
        Note that one read of a listener returned ``count`` datagrams.  After a full read there are probably more in the
        queue; full reads for ``_STANDING_QUEUE_SECONDS`` mean overload.
        """
        if count < FULL_BATCH:
            self.full_since.pop(listener, None)
        elif now - self.full_since.setdefault(listener, now) >= _STANDING_QUEUE_SECONDS:
            self._stood_at = now
            if now >= self.overloaded_until:
                self._scanned_at = -1.0
            self.overloaded_until = now + _OVERLOAD_SECONDS

    def may_send(self, share: ClientShare, now: float) -> bool:
        """
        Return whether a client without credit may send: it is within its rate, or is not limited now.  Count its query,
        and give it new credit.
        """
        rate = self._limits.rate
        self._refill(share, now)
        is_limited = rate > 0 and now < self.overloaded_until and not share.is_exempt
        if share.account is not share:
            share.granted += 1
            share.account.granted += 1
            return not (is_limited and self._is_contended(now)) or self._spend(share.account, now)
        if is_limited and share.tokens < 1 and self._is_contended(now):
            self._stay_busy(now)
            return False
        granted = min(CREDIT_SIZE, int(share.tokens)) if rate > 0 and share.tokens >= 1 else CREDIT_SIZE
        share.tokens = max(0.0, share.tokens - granted)
        share.granted += granted
        share.credit = granted - 1
        return True

    def may_admit_unknown(self, host: str, now: float) -> bool:
        """
        Return whether an address that is not in ``by_host`` may send a query.  Under overload all new prefixes together
        are limited to the rate of one client.
        """
        rate = self._limits.rate
        if not rate or now >= self.overloaded_until or self._has_prefix(host) or not self._is_contended(now):
            return True
        self._refill(self.unknown_clients, now)
        if self.unknown_clients.tokens < 1:
            self._stay_busy(now)
            return False
        return True

    def may_respond_to_shed(self, now: float) -> bool:
        """
        Return whether a query above the rate gets a response; those are limited to ``_SHED_RESPONSES_PER_SECOND``.
        """
        if self._shed_answers is None:
            self._shed_answers = RateLimit(_SHED_RESPONSES_PER_SECOND, now)
        if not self._shed_answers.available(now):
            return False
        self._shed_answers.take()
        return True

    def try_charge(self, account: ClientShare, size: int) -> bool:
        """
        Charge a query of ``size`` octets to an account; return False, without charging, if that exceeds its share.
        """
        free, room = self.max_in_flight - self.in_flight, MAX_IN_FLIGHT_OCTETS - self.octets - size
        is_over = account.in_flight >= free or account.octets > room
        if is_over and (not account.is_exempt or free <= 0 or room < 0):
            return False
        self.in_flight += 1
        self.octets += size
        account.in_flight += 1
        account.octets += size
        return True

    def is_table_full(self, account: ClientShare, size: int) -> bool:
        """
        Return whether there is no place for a query of ``size`` octets from any client; always True for an exempt one.
        """
        return account.is_exempt or self.in_flight >= self.max_in_flight or self.octets + size > MAX_IN_FLIGHT_OCTETS

    def release(self, account: ClientShare, size: int) -> None:
        """
        Release a charged query of ``size`` octets, which is no longer in flight.
        """
        self.in_flight -= 1
        self.octets -= size
        account.in_flight -= 1
        account.octets -= size

    def _find(self, host: str, now: float) -> ClientShare:
        if host and not self._is_allowed(host):
            return self.refused
        limits = self._limits
        is_exempt = not host or any(address_of(host) in network for network in limits.exempt)
        prefix = host if is_exempt else prefix_of(host, limits.prefix_v4, limits.prefix_v6)
        share = self._by_prefix.get(prefix)
        if share is None:
            if len(self._by_prefix) >= MAX_PREFIXES:
                self._evict_prefixes()
            share = self._by_prefix[prefix] = ClientShare(prefix, now, limits.rate)
            if is_exempt:
                share.is_exempt = True
                share.credit = share.granted = _UNLIMITED
            else:
                share.account = self.unknown_clients
                share.used = 1  # its first query does not count as activity
        return share

    def _evict_prefixes(self) -> None:
        """
        Evict some of the oldest prefixes: those that hold nothing and have sent nothing since the last check.  The
        others become the youngest.
        """
        before = len(self._by_prefix)
        oldest = list(self._by_prefix)[:_SCAN_SIZE]
        for prefix in oldest:
            share = self._by_prefix.pop(prefix)
            used = share.granted - share.credit
            if used != share.used or not share.is_empty:
                share.used = used
                self._by_prefix[prefix] = share
        if len(self._by_prefix) == before:
            empty = [prefix for prefix in oldest if self._by_prefix[prefix].is_empty]
            unknown = [prefix for prefix in empty if self._by_prefix[prefix].account is self.unknown_clients]
            for prefix in (unknown or empty)[:_MIN_EVICTED]:
                del self._by_prefix[prefix]
        self._evict_hosts()

    def _evict_hosts(self) -> None:
        """
        Evict addresses, except those of clients with their own account whose prefix is still in the table.
        """
        kept: dict[str, ClientShare] = {}
        of_prefix: dict[str, int] = {}
        for host, share in self.by_host.items():
            if share.account is share and self._by_prefix.get(share.prefix) is share:
                count = of_prefix[share.prefix] = of_prefix.get(share.prefix, 0) + 1
                if count <= _MAX_HOSTS_PER_PREFIX:
                    kept[host] = share
        self.by_host.clear()
        if len(kept) <= MAX_HOSTS // 2:
            self.by_host.update(kept)

    def _has_prefix(self, host: str) -> bool:
        if ":" not in host and self._limits.prefix_v4 == BITS_V4:
            return host in self._by_prefix
        return prefix_of(host, self._limits.prefix_v4, self._limits.prefix_v6) in self._by_prefix

    def _refill(self, share: ClientShare, now: float) -> None:
        """
        Add the tokens since the last call to a bucket; give a client that is no longer new its own account.
        """
        rate = self._limits.rate
        share.tokens = min(rate, share.tokens + (now - share.filled_at) * rate)
        share.filled_at = now
        if (
            share.account is self.unknown_clients
            and share is not self.unknown_clients
            and now - share.since >= _KNOWN_AFTER_SECONDS
        ):
            self._mark_known(share)

    def _mark_known(self, share: ClientShare) -> None:
        """
        Give a client its own account, and no longer count its queries as those of unknown clients.
        """
        share.account = share
        self.unknown_clients.granted -= share.granted

    def _spend(self, account: ClientShare, now: float) -> bool:
        self._refill(account, now)
        if account.tokens < 1:
            self._stay_busy(now)
            return False
        account.tokens -= 1
        return True

    def _stay_busy(self, now: float) -> None:
        """
        Prolong the overload state, because a client exceeds its rate.  From ``_STANDING_QUEUE_MEMORY`` after the last
        standing queue on it may end, so that the client's queries show whether there is still an overload.
        """
        if now < self._stood_at + _STANDING_QUEUE_MEMORY:
            self.overloaded_until = now + _OVERLOAD_SECONDS

    def _is_contended(self, now: float) -> bool:
        """
        Return whether more than one client was active lately.
        """
        interval = _SCAN_INTERVAL if now >= self._contended_until else _SCAN_INTERVAL_CONTENDED
        if now >= self._scanned_at + interval or self._scanned_at < 0:
            active = self._count_active()
            if self._scanned_at >= 0 and active > 1:
                self._contended_until = now + _CONTENDED_SECONDS
            self._scanned_at = now
        return now < self._contended_until

    def _count_active(self) -> int:
        """
        Return the number of clients that have sent queries since the last call.
        """
        active = 0
        for share in (self.unknown_clients, *self._by_prefix.values()):
            used = share.granted - share.credit
            active += used > share.used and share.account is share  # unknown clients count as one
            share.used = used
        return active
