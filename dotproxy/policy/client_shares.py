"""
What one client may take of what all clients share: queries a second, queries in flight, octets of those.

Decides by the client's address alone.  A client is a prefix: an IPv4 address, or an IPv6 network that one customer is
given.  Two rules:

* Of a table that all share, a client may hold as many places as are free.  One alone can take half of it, two a third
  each, and there is always room for somebody who holds little (dynamic thresholds: Choudhury and Hahne, 1998).
* While there is more to do than can be done, a client is held to a rate of queries: a token bucket.  At other times
  nobody is, nor is one who is the only client.

Refuses to know what a query asks, and what is told to a client that has had its share.

Addresses over UDP can be forged, so nothing here grows with the number of addresses seen, and prefixes that were first
seen a moment ago share one account until they have been seen for a while, or over TCP.
"""

from __future__ import annotations

from typing import Final

from dotproxy.policy.client_prefix import BITS_V4, address_of, prefix_of
from dotproxy.policy.rate_limit import RateLimit
from dotproxy.policy.share_settings import ShareSettings

#: So many queries are let through before the bucket is looked at again.
CREDIT_SIZE: Final = 64

#: Credit of those that are not limited.
_UNLIMITED: Final = 1 << 60

#: A prefix is known when it has been seen for so long, in seconds.
_KNOWN_AFTER_SECONDS: Final = 1.0

#: Addresses and prefixes remembered.
MAX_HOSTS: Final = 8192
MAX_PREFIXES: Final = 8192

#: Prefixes looked at when some have to be forgotten, and how many go if all of them are in use.
_SCAN_SIZE: Final = 2048
_MIN_EVICTED: Final = 64

#: Addresses of one prefix that are kept when many have to be forgotten.
_MAX_HOSTS_PER_PREFIX: Final = 16

#: Octets of queries in flight, of all clients.
MAX_IN_FLIGHT_OCTETS: Final = 16 << 20

#: Datagrams that are read at once, at most.
FULL_BATCH: Final = 64

#: A queue that does not empty for so long, in seconds, is more than a burst; there is too much to do for so long then.
_STANDING_QUEUE_SECONDS: Final = 0.02
_OVERLOAD_SECONDS: Final = 2.0
_STANDING_QUEUE_MEMORY: Final = 10.0

#: Clients over their rate that are told so, a second.
_SHED_RESPONSES_PER_SECOND: Final = 2000.0

#: How often it is found out who is active while there is too much to do, and how long that is believed.
_SCAN_INTERVAL: Final = 0.1
_SCAN_INTERVAL_CONTENDED: Final = 2.0
_CONTENDED_SECONDS: Final = 60.0


class ClientShare:
    """
    What a client holds and may still do.

    ``credit``: how many queries it may send before the bucket is looked at.  ``account``: whom its queries in flight
    are charged to, itself or an account that it shares.  ``connections``, ``unread`` (octets) and
    ``does_not_read_until`` are kept by who accepts connections.
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
        Whether it holds nothing.
        """
        return not (self.in_flight or self.connections or self.unread)


class ClientShares:
    """
    Owns: a share for each client of late, and what all hold together.

    ``in_flight`` and ``octets`` are of all clients; ``by_host`` is for who cannot wait for a call: an address that is
    missing there is asked for with ``of``.
    """

    def __init__(self, settings: ShareSettings) -> None:
        self.by_host: dict[str, ClientShare] = {}
        self.in_flight = self.octets = 0
        self.overloaded_until = 0.0
        self._by_prefix: dict[str, ClientShare] = {}
        #: By listener, since when as much as possible has been read of it each time.
        self.full_since: dict[object, float] = {}
        self._stood_at = 0.0
        self._scanned_at = -1.0
        self._contended_until = -1.0
        self._shed_answers: RateLimit | None = None
        self._is_allowed, self.max_in_flight, self._limits = settings
        #: Of all whose address is not served, and of all that were first seen a moment ago.
        self.refused = ClientShare("refused", 0.0, 0.0)
        self.refused.is_served = False
        self.unknown_clients = ClientShare("strangers", 0.0, self._limits.rate)

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
        Return the share of a client by its IP address, as sockets spell it; ``""`` is this process itself.
        """
        share = self.by_host.get(host)
        if share is None:
            if len(self.by_host) >= MAX_HOSTS:
                self._evict_hosts()
            share = self.by_host[host] = self._find(host, now)
        return share

    def verify(self, share: ClientShare) -> None:
        """
        Take note that a client's address is not forged: it has completed a handshake.
        """
        if share.account is self.unknown_clients:
            self._mark_known(share)

    def note_batch(self, listener: object, count: int, now: float) -> None:
        """
        So many datagrams of a listener were read at once.  If those are as many as can be, there are probably more: a
        queue that does not empty for ``_STANDING`` means that there is too much to do.
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
        Whether a client without credit is within its rate, or need not be; it then has credit again.  To be called for
        a query, which is counted.
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
        Whether an address that is not in ``by_host`` may send a query: while there is too much to do, all that were not
        seen before are held to the rate of one together.
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
        Whether a client that is over its rate may be told so: so often a second and not more, since that costs as well.
        """
        if self._shed_answers is None:
            self._shed_answers = RateLimit(_SHED_RESPONSES_PER_SECOND, now)
        if not self._shed_answers.available(now):
            return False
        self._shed_answers.take()
        return True

    def try_charge(self, account: ClientShare, size: int) -> bool:
        """
        Charge a query of ``size`` octets that is to be in flight; return False if there is no place for it, and do not.
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
        Whether there is no place for a query of ``size`` octets, whoever sends it; of one that is exempt, at all.
        """
        return account.is_exempt or self.in_flight >= self.max_in_flight or self.octets + size > MAX_IN_FLIGHT_OCTETS

    def release(self, account: ClientShare, size: int) -> None:
        """
        It is in flight no more.
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
                share.used = 1  # one query does not show that it is there to stay
        return share

    def _evict_prefixes(self) -> None:
        """
        Forget some of the oldest prefixes: those that hold nothing and have sent nothing since they were last looked
        at; the others are the youngest now.
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
        Forget addresses: all but those of clients that are known and are to be found by their prefix.
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
        Add what has come into a bucket since it was looked at last; whoever has been seen for a while is known.
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
        Give a client an account of its own; what it has sent is not what strangers sent, then.
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
        Somebody is over its rate.  Whether that would still be too much is found out now and then by letting it in.
        """
        if now < self._stood_at + _STANDING_QUEUE_MEMORY:
            self.overloaded_until = now + _OVERLOAD_SECONDS

    def _is_contended(self, now: float) -> bool:
        """
        Whether more than one client is active.
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
        Return how many clients have sent something since this was called last.
        """
        active = 0
        for share in (self.unknown_clients, *self._by_prefix.values()):
            used = share.granted - share.credit
            active += used > share.used and share.account is share  # strangers are counted together
            share.used = used
        return active
