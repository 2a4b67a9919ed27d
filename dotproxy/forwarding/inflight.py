"""
Queries in flight, and when each is due for a check.

Decides what is overdue.  A query is in its *first attempt* until its first check: first attempts at one upstream are in
the order of sending and have the same delay, which follows that upstream's latency.  After the check it is
*rescheduled* and has a time of its own.  The code that takes a query out responds to its clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from dotproxy.errors import Timeout, UpstreamError
from dotproxy.forwarding.interfaces import Listener, UpstreamResponse
from dotproxy.policy.client import Client
from dotproxy.policy.client_shares import ClientShare
from dotproxy.policy.retry import MAX_SENDS, is_untried, taken_back
from dotproxy.policy.selection import Order
from dotproxy.wire.edns import EDE_NETWORK_ERROR, EDE_NO_REACHABLE_AUTHORITY, ExtendedError
from dotproxy.wire.message import QueryInfo
from dotproxy.wire.rewrite import with_minimal_opt
from dotproxy.wire.rrtypes import name_of as type_name


class ClientRequest(NamedTuple):
    """
    A query of a client that has no response yet: ``octets`` in wire form, ``info`` as parsed, ``account`` the share
    that it is charged to.
    """

    listener: Listener
    client: Client
    octets: bytes
    info: QueryInfo
    account: ClientShare


class FallbackResponse(NamedTuple):
    """
    A SERVFAIL or REFUSED, used if no better response comes, and the label of the upstream that sent it.
    """

    response: UpstreamResponse
    upstream: str


class Query:
    """
    A query in flight.  Times are in seconds on the caller's clock.

    ``octets`` is the first client's query in wire form, ``info`` as parsed, ``sent`` the query for upstreams;
    ``waiting`` has the clients that get the response, none if the query refreshes the cache; ``key`` is the cache key,
    b"" if the response is for one client only.

    ``attempts`` has an upstream's slot once for each time the query was sent to it, ``awaiting`` the slots that may
    still respond, ``given_up`` those that it must not be sent to again; ``lost_connections`` counts the connections
    that ended while it was in flight on them, ``lost_alone`` those on which it was alone.  ``is_unusual``: servers may
    treat it unlike others; ``is_simple``: it is not unusual, was not sent and has not failed before.  ``fallback`` is a
    SERVFAIL or REFUSED, used if no upstream has a better response; ``error_responses`` counts those received.
    """

    __slots__ = (
        "attempts",
        "awaiting",
        "deadline",
        "due",
        "error_responses",
        "errors",
        "fallback",
        "given_up",
        "info",
        "is_hedged",
        "is_simple",
        "is_unusual",
        "key",
        "lost_alone",
        "lost_connections",
        "octets",
        "order",
        "queue",
        "sent",
        "started_at",
        "waiting",
    )

    def __init__(
        self,
        octets: bytes,
        info: QueryInfo,
        sent: bytes,
        order: Order,
        asked_at: float,
        deadline: float,
        key: bytes = b"",
    ) -> None:
        self.octets = octets
        self.info = info
        self.sent = sent
        self.order = order
        self.started_at = asked_at
        self.due = self.deadline = deadline
        self.waiting: list[ClientRequest] = []
        self.key = key
        self.queue: dict[Query, None] | None = None
        self.attempts: tuple[int, ...] = ()
        self.awaiting: tuple[int, ...] = ()
        self.given_up: tuple[int, ...] = ()
        self.lost_connections = self.error_responses = 0
        self.lost_alone = 0
        self.is_hedged = self.is_unusual = False
        self.is_simple = True
        self.fallback: FallbackResponse | None = None
        self.errors: tuple[UpstreamError, ...] = ()

    def __repr__(self) -> str:
        # Without the query name: a traceback in the log has the repr of what a KeyError is about.
        sent, awaiting = ("+".join(map(str, slots)) or "none" for slots in (self.attempts, self.awaiting))
        qtype, clients = type_name(self.info.qtype), len(self.waiting)
        return f"<{type(self).__name__} {qtype}: sent to {sent}, awaiting {awaiting}, {clients} clients>"

    @property
    def is_untried(self) -> bool:
        """
        Whether there is an upstream that the query was not sent to and may be.
        """
        return is_untried(self.order, self.attempts, self.given_up)

    def reduce_opt(self, upstream: int) -> bool:
        """
        Reduce the OPT to the minimum, and record another attempt at an upstream; return False and do nothing if the
        OPT is minimal already, or the query was sent to this upstream ``MAX_SENDS`` times.
        """
        least = with_minimal_opt(self.sent)
        if not least or self.attempts.count(upstream) >= MAX_SENDS:
            return False
        self.sent = least
        self.attempts += (upstream,)
        self.awaiting = (*taken_back(self.awaiting, upstream), upstream)
        return True


class DispatchObserver(Protocol):
    """
    Gets the outcome of queries.
    """

    def resolved(self, answers: list[tuple[Query, UpstreamResponse]], upstream: str, now: float) -> None:
        """
        Process the parsed responses of the upstream with this label, at ``now``.
        """

    def failed(self, queries: list[tuple[Query, ExtendedError]], now: float) -> None:
        """
        Process queries that no upstream responded to, with the reasons, at ``now``.
        """

    def may_retry(self, query: Query) -> bool:
        """
        Return whether to retry a query that an upstream ignores while it responds to others.
        """


class InflightQueries:
    """
    Owns: every query in flight.  ``first_attempt`` is by slot of the upstream.
    """

    def __init__(self, upstreams: int) -> None:
        self.first_attempt: list[dict[Query, None]] = [{} for _ in range(upstreams)]
        self.rescheduled: dict[Query, None] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary}>"

    @property
    def summary(self) -> str:
        """
        The number of queries in flight, and of those rescheduled, as text.
        """
        return f"{len(self)} in flight ({len(self.rescheduled)} rescheduled)"

    def __len__(self) -> int:
        return sum(map(len, self.first_attempt)) + len(self.rescheduled)

    def __iter__(self) -> Iterator[Query]:
        for fresh in self.first_attempt:
            yield from tuple(fresh)
        yield from tuple(self.rescheduled)

    def add_upstreams(self, upstreams: int) -> None:
        """
        Extend the table to this number of upstreams.
        """
        self.first_attempt += [{} for _ in range(upstreams - len(self.first_attempt))]

    def add(self, query: Query, upstreams: tuple[int, ...]) -> None:
        """
        Add a query that is sent for the first time, to the upstreams in these slots.
        """
        query.queue = queue = self.first_attempt[upstreams[0]]
        queue[query] = None
        query.is_simple = False
        query.attempts = query.awaiting = upstreams

    def reschedule(self, query: Query, due: float) -> None:
        """
        Check a query again at ``due``, at its deadline if that is sooner.
        """
        if query.queue is not self.rescheduled:
            if query.queue is not None:
                del query.queue[query]
            query.queue = self.rescheduled
            self.rescheduled[query] = None
        query.due = min(due, query.deadline)

    @staticmethod
    def take(query: Query) -> bool:
        """
        Remove a query; return whether it was in flight.
        """
        if query.queue is None:
            return False
        del query.queue[query]
        query.queue = None
        return True

    def overdue(self, now: float, delays: Sequence[float]) -> list[Query]:
        """
        Return the queries that are due; ``delays`` has the delay of a first attempt at each upstream, in seconds.
        """
        found: list[Query] = []
        for fresh, delay in zip(self.first_attempt, delays, strict=True):
            for query in fresh:
                if query.started_at + delay > now:
                    break
                found.append(query)
        found += [query for query in self.rescheduled if query.due <= now]
        return found

    def next_due(self, delays: Sequence[float]) -> float | None:
        """
        Return when the next query is due, None without any.
        """
        dues = [query.due for query in self.rescheduled]
        for fresh, delay in zip(self.first_attempt, delays, strict=True):
            if fresh:
                dues.append(next(iter(fresh)).started_at + delay)
        return min(dues, default=None)


def explain(query: Query, labels: Sequence[str]) -> ExtendedError:
    """
    Return an Extended DNS Error that has the error of each upstream, by label (RFC 8914 §4.23, §4.24).
    """
    errors = list(query.errors)
    told = {error.upstream for error in errors}
    sent_to = dict.fromkeys(labels[index] for index in query.attempts)
    errors += [Timeout("read", "no answer in time", label) for label in sent_to if label not in told]
    never_reached = all(error.was_not_sent or error.phase == "connect" for error in errors)
    code = EDE_NO_REACHABLE_AUTHORITY if never_reached else EDE_NETWORK_ERROR
    return ExtendedError(code, "; ".join(map(str, errors)))
