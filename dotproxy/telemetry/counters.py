"""
What is counted: plain numbers, added to where things happen and read when somebody asks.

Decides what there is to count and how it is grouped; there are never more groups than are named here, and no name of
a client's or of a question is among them.  How it is shown is ``metrics``'s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from dotproxy.errors import ClientEnd, ConnectionEnd, ShedReason
from dotproxy.wire import rrtypes as rr

#: How a query came: its listener's ``kind``.
UDP, TCP, INSIDE, TLS = range(4)
TRANSPORTS = ("udp", "tcp", "inside", "tls")

#: Types that are asked for a lot, each a group; all others are one.
_TYPES = (rr.A, rr.AAAA, rr.HTTPS, rr.PTR, rr.CNAME, rr.MX, rr.NS, rr.SOA, rr.TXT, rr.SRV)
_DNSSEC = (rr.DS, rr.RRSIG, rr.NSEC, rr.DNSKEY, rr.NSEC3, rr.NSEC3PARAM, rr.TLSA)
TYPE_GROUPS = (*(rr.name_of(rtype) for rtype in _TYPES), "DNSSEC", "other")
_GROUP_OF = {**{rtype: group for group, rtype in enumerate(_TYPES)}, **dict.fromkeys(_DNSSEC, len(_TYPES))}
_OTHER = len(TYPE_GROUPS) - 1

RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", *(f"RCODE{n}" for n in range(6, 16)))

#: The reasons there are; no other becomes a label.
_ENDS = frozenset(str(end) for end in ConnectionEnd)

#: Upper bounds of a histogram's buckets, in seconds.
BOUNDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Origin(Enum):
    """
    Where a response came from, as the query log has it.

    ``CACHE`` is the cache or the packet cache, ``STALE`` an expired response from it, ``FAILURE_CACHE`` a failure of a
    moment ago, ``UPSTREAM`` an upstream that was asked, ``JOINED`` the same for a client that waited with a query in
    flight, ``LOCAL`` dotproxy itself; with ``FAILED`` no upstream answered.
    """

    CACHE = "cache"
    STALE = "stale"
    FAILURE_CACHE = "failure_cache"
    UPSTREAM = "upstream"
    JOINED = "joined"
    LOCAL = "local"
    FAILED = "failed"


def group_of(kind: int, qtype: int, rcode: int) -> int:
    """
    Return the place in ``Counters.answers`` of answers over a transport, to a type, with the lower bits of an rcode.
    """
    return (kind * len(TYPE_GROUPS) + _GROUP_OF.get(qtype, _OTHER)) * 16 + rcode


class Histogram:
    """
    How often something took how long: ``counts`` by bucket, the last for what took longer than all bounds.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """
        So many took so long each.
        """
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times


class Counters:
    """
    What is counted of clients' queries.

    ``answers`` by ``group_of``; ``silent`` are those that get none; ``here`` is how long it took to answer without
    asking, ``asked`` how long where somebody had to be asked; ``shed`` are queries that were not processed, by
    ``ShedReason``; ``tcp_ended`` are clients' connections that were ended or refused here, by ``ClientEnd``; the others
    are numbers of queries.
    """

    FIELDS: ClassVar = (
        *("answers", "asked", "failed_before", "fresh", "here", "joined", "memo", "missed", "overloaded"),
        *("prefetched", "shed", "silent", "stale", "tcp_ended"),
    )
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.answers = [0] * (len(TRANSPORTS) * len(TYPE_GROUPS) * 16)
        self.here = Histogram()
        self.asked = Histogram()
        self.silent = self.overloaded = 0
        self.memo = self.fresh = self.stale = self.failed_before = self.joined = self.missed = self.prefetched = 0
        self.shed: Counter[str] = Counter(dict.fromkeys(ShedReason, 0))
        self.tcp_ended: Counter[str] = Counter(dict.fromkeys(ClientEnd, 0))


class ListenerCounters:
    """
    What is counted of connections from clients, and of what stands before their queries.

    ``handshakes`` counts TLS handshakes by how they ended: ``completed``, ``failed`` or ``timed_out``;
    ``proxy_errors`` counts datagrams and connections from ``proxy_protocol_from`` without a valid PROXY header, by
    transport.
    """

    FIELDS: ClassVar = ("handshakes", "proxy_errors")
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.handshakes: Counter[str] = Counter()
        self.proxy_errors: Counter[str] = Counter()


class PlaintextCounters:
    """
    Count queries that leave without TLS and are no upstream's: ``bootstrap`` are lookups of upstreams' names at servers
    configured as ``udp://ADDRESS``.
    """

    FIELDS: ClassVar = ("bootstrap",)
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.bootstrap = 0


class UpstreamCounters:
    """
    What is counted of one upstream.

    ``answers`` by the lower bits of the rcode; ``wire`` is how long answers took from when they were asked;
    ``waited`` how long questions waited for a connection; ``full`` and ``resumed`` are handshakes; ``opened`` and
    ``closed`` connections, the latter by who did it and why; ``not_connected`` by phase; ``retries`` questions asked
    again, ``hedges`` such as were only slow, ``stalls`` connections found silent; ``plaintext`` questions that left
    without TLS, of which there are none.
    """

    FIELDS: ClassVar = (
        *("answers", "closed", "full", "hedges", "not_connected", "opened", "plaintext", "resumed", "retries"),
        *("stalls", "waited", "wire"),
    )
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.answers = [0] * 16
        self.wire = Histogram()
        self.waited = Histogram()
        self.full = Histogram()
        self.resumed = Histogram()
        self.opened = self.retries = self.hedges = self.stalls = self.plaintext = 0
        self.closed: Counter[tuple[str, str]] = Counter()
        self.not_connected: Counter[str] = Counter()

    def note_closed(self, ended_for: str, code: str) -> None:
        """
        A connection ended: for a reason of ours, or "" and the code of how the upstream ended it.
        """
        by, reason = ("us", ended_for) if ended_for else ("peer", code)
        self.closed[by, reason if reason in _ENDS else "other"] += 1
