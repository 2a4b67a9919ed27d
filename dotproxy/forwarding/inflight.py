"""
Every question that has no answer yet, and when each is to be looked at.

Decides what is overdue.  A query is *fresh* until it was looked at for the first time: those asked of one upstream
wait in order, and all for the same time, which may change as that upstream is known better; after that it is *late*,
and has a time of its own.  Taking it out is taking charge of answering it.
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
    A query of a client that has no response yet: ``octets`` as it came, ``info`` what was seen of it, ``account`` whom
    it is charged to.
    """

    listener: Listener
    client: Client
    octets: bytes
    info: QueryInfo
    account: ClientShare


class FallbackResponse(NamedTuple):
    """
    An answer that is better than none, and the label of the upstream that gave it.
    """

    response: UpstreamResponse
    upstream: str


class Query:
    """
    A query in flight.

    ``octets`` is the query as its first client sent it, ``info`` what was parsed of it, ``sent`` the query for
    upstreams; ``waiting`` has the clients that get the response, none if the cache is refreshed; ``key`` is the cache
    key.

    ``attempts`` has an upstream's slot once for each time the query was sent to it, ``awaiting`` the slots that may
    still respond, ``given_up`` those that it must not be sent to again; ``lost_connections`` counts the connections
    that ended while it was in flight on them, ``lost_alone`` those on which it was alone.  ``is_unusual``: servers may
    treat it unlike others; ``is_simple``: it is not unusual, was not sent and has not failed before.  ``fallback`` is a
    SERVFAIL or REFUSED, which is used if no upstream has a better response; ``error_responses`` counts those that came.
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
        Whether there is an upstream that was not asked yet and may be.
        """
        return is_untried(self.order, self.attempts, self.given_up)

    def reduce_opt(self, upstream: int) -> bool:
        """
        Take note that it is sent to an upstream once more, with the least OPT there can be; return False, and take
        no note, if it was sent with that already, or to this upstream as often as may be.
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
    Who is told what came of questions.
    """

    def resolved(self, answers: list[tuple[Query, UpstreamResponse]], upstream: str, now: float) -> None:
        """
        Take the parsed responses of the upstream with this label, at ``now``.
        """

    def failed(self, queries: list[tuple[Query, ExtendedError]], now: float) -> None:
        """
        Take queries that no upstream responded to, with the reasons, at ``now``.
        """

    def may_retry(self, query: Query) -> bool:
        """
        Whether a query that an upstream left without a response, although it answers others, is worth another one.
        """


class InflightQueries:
    """
    Owns: every live query.
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
        Have room for queries to so many upstreams in all.
        """
        self.first_attempt += [{} for _ in range(upstreams - len(self.first_attempt))]

    def add(self, query: Query, upstreams: tuple[int, ...]) -> None:
        """
        Take in a query that is about to be sent for the first time, to the upstreams in these slots.
        """
        query.queue = queue = self.first_attempt[upstreams[0]]
        queue[query] = None
        query.is_simple = False
        query.attempts = query.awaiting = upstreams

    def reschedule(self, query: Query, due: float) -> None:
        """
        Look at a live query again at ``due``, or at its deadline.
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
        Take a query out; return whether it was still in.
        """
        if query.queue is None:
            return False
        del query.queue[query]
        query.queue = None
        return True

    def overdue(self, now: float, delays: Sequence[float]) -> list[Query]:
        """
        Return what is to be looked at; ``delays`` says for each upstream how long a fresh query waits.
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
        Return when the next query is to be looked at, None without any.
        """
        dues = [query.due for query in self.rescheduled]
        for fresh, delay in zip(self.first_attempt, delays, strict=True):
            if fresh:
                dues.append(next(iter(fresh)).started_at + delay)
        return min(dues, default=None)


def explain(query: Query, labels: Sequence[str]) -> ExtendedError:
    """
    Say which upstreams, by their labels, failed a query, and how.
    """
    errors = list(query.errors)
    told = {error.upstream for error in errors}
    asked = dict.fromkeys(labels[index] for index in query.attempts)
    errors += [Timeout("read", "no answer in time", label) for label in asked if label not in told]
    never_reached = all(error.was_not_sent or error.phase == "connect" for error in errors)
    code = EDE_NO_REACHABLE_AUTHORITY if never_reached else EDE_NETWORK_ERROR
    return ExtendedError(code, "; ".join(map(str, errors)))
