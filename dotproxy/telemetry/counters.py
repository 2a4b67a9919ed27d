"""
Counters: plain numbers, increased where things happen and read for each report.

Decides what is counted and how it is grouped.  The groups are fixed here; no client address and no query name becomes
one.  ``metrics`` decides how counters are presented.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from dotproxy.errors import ClientEnd, ConnectionEnd, ShedReason
from dotproxy.wire import rrtypes as rr

#: The transport of a query: the ``kind`` of its listener.  ``TRANSPORTS`` has the values of the metrics' label.
UDP, TCP, IN_PROCESS, TLS = range(4)
TRANSPORTS = ("udp", "tcp", "inside", "tls")

#: Query types with a group of their own; all others share ``other``.
_TYPES = (rr.A, rr.AAAA, rr.HTTPS, rr.PTR, rr.CNAME, rr.MX, rr.NS, rr.SOA, rr.TXT, rr.SRV)
_DNSSEC = (rr.DS, rr.RRSIG, rr.NSEC, rr.DNSKEY, rr.NSEC3, rr.NSEC3PARAM, rr.TLSA)
TYPE_GROUPS = (*(rr.name_of(rtype) for rtype in _TYPES), "DNSSEC", "other")
_GROUP_OF = {**{rtype: group for group, rtype in enumerate(_TYPES)}, **dict.fromkeys(_DNSSEC, len(_TYPES))}
_OTHER = len(TYPE_GROUPS) - 1

RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", *(f"RCODE{n}" for n in range(6, 16)))

#: Reasons for the end of a connection; any other is counted as ``other``.
_ENDS = frozenset(str(end) for end in ConnectionEnd)

#: Upper bounds of a histogram's buckets, in seconds.
BOUNDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Origin(Enum):
    """
    The source of a response, as the query log has it.

    ``CACHE`` is the response cache or the packet cache, ``STALE`` an expired response from the cache, ``FAILURE_CACHE``
    a cached failure (RFC 9520), ``UPSTREAM`` an upstream's response, ``JOINED`` the same for a client that waited with
    a query in flight, ``LOCAL`` a response made by dotproxy; with ``FAILED`` no upstream responded.
    """

    CACHE = "cache"
    STALE = "stale"
    FAILURE_CACHE = "failure_cache"
    UPSTREAM = "upstream"
    JOINED = "joined"
    LOCAL = "local"
    FAILED = "failed"


def answer_index(kind: int, qtype: int, rcode: int) -> int:
    """
    Return the index in ``Counters.answers`` for a transport, a query type and the lower 4 bits of an rcode.
    """
    return (kind * len(TYPE_GROUPS) + _GROUP_OF.get(qtype, _OTHER)) * 16 + rcode


class Histogram:
    """
    A histogram of durations in seconds.

    ``counts`` has one number a bucket, the last for durations above all ``bounds``; ``total`` is the sum of durations.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """
        Count ``times`` durations of ``seconds`` each.
        """
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times


class Counters:
    """
    Counters of clients' queries.

    ``answers`` has the responses sent, by ``answer_index``; ``unanswered`` the messages that get none;
    ``local_seconds`` the time to responses for which no upstream was queried, ``upstream_seconds`` to the others;
    ``shed`` the queries that were dropped or limited, by ``ShedReason``; ``connections_ended`` the clients' connections
    that dotproxy ended or refused, by ``ClientEnd``; ``joined`` the queries that waited with the same query in flight.
    The others are numbers of queries.
    """

    FIELDS: ClassVar = (
        *("answers", "cache_hits", "cache_misses", "connections_ended", "failure_cache_hits", "joined"),
        *("local_seconds", "overload_refusals", "packet_cache_hits", "prefetches", "shed", "stale_responses"),
        *("unanswered", "upstream_seconds"),
    )
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.answers = [0] * (len(TRANSPORTS) * len(TYPE_GROUPS) * 16)
        self.local_seconds = Histogram()
        self.upstream_seconds = Histogram()
        self.unanswered = self.overload_refusals = 0
        self.packet_cache_hits = self.cache_hits = self.cache_misses = self.prefetches = 0
        self.stale_responses = self.failure_cache_hits = self.joined = 0
        self.shed: Counter[str] = Counter(dict.fromkeys(ShedReason, 0))
        self.connections_ended: Counter[str] = Counter(dict.fromkeys(ClientEnd, 0))

    def lookups(self) -> dict[str, int]:
        """
        Return the number of queries by the result of their cache lookup, as metrics and the status name the results.
        """
        return {
            "memo": self.packet_cache_hits,
            "fresh": self.cache_hits,
            "stale": self.stale_responses,
            "failed_before": self.failure_cache_hits,
            "joined": self.joined,
            "missed": self.cache_misses,
        }


class ListenerCounters:
    """
    Counters of clients' TLS handshakes and PROXY headers.

    ``handshakes`` counts TLS handshakes by outcome: ``completed``, ``failed`` or ``timed_out``.  ``proxy_errors``
    counts datagrams and connections from ``proxy_protocol_from`` without a valid PROXY header, by transport: ``udp``,
    ``tcp`` or ``tls``.
    """

    FIELDS: ClassVar = ("handshakes", "proxy_errors")
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.handshakes: Counter[str] = Counter()
        self.proxy_errors: Counter[str] = Counter()


class PlaintextCounters:
    """
    Counters of queries that leave without TLS and are not for an upstream.

    ``bootstrap`` counts lookups of upstreams' names at servers configured as ``udp://ADDRESS``.
    """

    FIELDS: ClassVar = ("bootstrap",)
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.bootstrap = 0


class UpstreamCounters:
    """
    Counters of one upstream.

    ``answers`` counts its responses by the lower 4 bits of the rcode; ``answer_seconds`` is the time from a query to
    its response, ``wait_seconds`` the time queries waited for a connection; ``full_handshakes`` and
    ``resumed_handshakes`` are the times to connect.  ``connections_closed`` counts by who ended a connection (``us`` or
    ``peer``) and the reason, ``connect_failures`` by phase.  ``retries`` counts overdue queries that were sent again,
    ``hedges`` slow ones that were sent to another upstream too, ``stalls`` connections found silent, ``plaintext``
    queries that left without TLS, which must be 0.
    """

    FIELDS: ClassVar = (
        *("answer_seconds", "answers", "connect_failures", "connections_closed", "connections_opened"),
        *("full_handshakes", "hedges", "plaintext", "resumed_handshakes", "retries", "stalls", "wait_seconds"),
    )
    __slots__ = FIELDS

    def __init__(self) -> None:
        self.answers = [0] * 16
        self.answer_seconds = Histogram()
        self.wait_seconds = Histogram()
        self.full_handshakes = Histogram()
        self.resumed_handshakes = Histogram()
        self.connections_opened = self.retries = self.hedges = self.stalls = self.plaintext = 0
        self.connections_closed: Counter[tuple[str, str]] = Counter()
        self.connect_failures: Counter[str] = Counter()

    def count_closed(self, ended_for: str, code: str) -> None:
        """
        Count a closed connection: by ``ended_for``, our reason to close it, or, if that is "", by the ``code`` of how
        the upstream ended it.
        """
        by, reason = ("us", ended_for) if ended_for else ("peer", code)
        self.connections_closed[by, reason if reason in _ENDS else "other"] += 1
