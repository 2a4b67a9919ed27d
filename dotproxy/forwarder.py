"""
The life of one query, from its octets to its answer.

Decides the order of things and nothing else: what becomes of a query on arrival is ``reception``'s word, whom to
prefer ``selection``'s, whom to ask next ``attempts``'s.  Sees listeners and upstreams only as its ``neighbours``.

A query that cannot be answered on the spot is *live* until its answer is handed to its listener.  It is
in one of two tables: ``fresh``, asked once, in order of arrival, or ``late``, with a time of its own when
it is looked at again.  Taking it out is taking charge of answering it, so it is answered exactly once,
whatever its upstreams do afterwards; and the deadline takes out whatever is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dotproxy.errors import BadReply, ConnectionGone, Timeout, Unreachable, Untrusted, UpstreamError, WireError
from dotproxy.neighbours import Answers, Client, Hop, Listener, Transfers, Upstream
from dotproxy.policy.attempts import MAX_FORGIVEN, given_up, next_upstreams, taken_back
from dotproxy.policy.selection import Order, Ordering
from dotproxy.reception import TRANSFERS, Reception
from dotproxy.wire.edit import refusal, truncated
from dotproxy.wire.edns import EDE_NETWORK_ERROR, EDE_NO_REACHABLE_AUTHORITY, EDE_OTHER, ExtendedError
from dotproxy.wire.message import SERVFAIL, Peek

#: Timers closer together than this, in seconds, are one.
_GRAIN = 0.02


class Query:
    """
    One live query.
    """

    __slots__ = (
        "client",
        "deadline",
        "due",
        "errors",
        "forgiven",
        "listener",
        "octets",
        "order",
        "pending",
        "seen",
        "sent",
        "tried",
    )

    def __init__(
        self,
        listener: Listener,
        client: Client,
        octets: bytes,
        seen: Peek,
        sent: bytes,
        order: Order,
        deadline: float,
    ) -> None:
        self.listener = listener
        self.client = client
        self.octets = octets
        self.seen = seen
        self.sent = sent
        self.order = order
        self.due = self.deadline = deadline
        self.tried: tuple[int, ...] = ()
        self.forgiven = 0
        self.pending: tuple[int, ...] = ()
        self.errors: tuple[UpstreamError, ...] = ()


class Forwarder:
    """
    Owns: every live query, and the one timer that watches over them.
    Told by: listeners (``questions_received``), upstreams (``answered``, ``failed``).
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        *,
        ordering: Ordering,
        reception: Reception,
        hop: Hop,
        transfers: Transfers,
        clock: IReactorTime,
        now: Callable[[], float],
        query_timeout: float,
        attempt_timeout: float,
        udp_max_size: int,
        max_outstanding: int,
    ) -> None:
        self._upstreams = tuple(upstreams)
        self._ordering = ordering
        self._receive = reception.receive
        self._hop = hop
        self._transfers = transfers
        self._clock = clock
        self._now = now
        self._query_timeout = query_timeout
        self._attempt_timeout = min(attempt_timeout, query_timeout)
        self._udp_max_size = udp_max_size
        self._max_outstanding = max_outstanding
        self._fresh: dict[Query, None] = {}
        self._late: dict[Query, None] = {}
        self._timer: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None
        for upstream in self._upstreams:
            upstream.outcomes = self

    @property
    def outstanding(self) -> int:
        """
        How many queries are live.
        """
        return len(self._fresh) + len(self._late)

    def questions_received(self, listener: Listener, batch: Iterable[tuple[bytes, Client]]) -> int:
        """
        Take queries; the listener gets an answer to each, now or later, but for those that must have
        none.  Return how many of those there were.
        """
        now = self._now()
        deadline = now + self._query_timeout
        answers: Answers = []
        queries: list[Query] = []
        room = self._max_outstanding - self.outstanding
        silent = 0
        for octets, client in batch:
            received = self._receive(listener, octets, client)
            if received is None:
                silent += 1
                continue
            if isinstance(received, bytes):
                answers.append((received, client))
                continue
            seen, sent = received
            if seen.qtype in TRANSFERS:
                self._transfers.begin(listener, client, octets, seen, sent, self._ordering())
            elif len(queries) >= room:
                answers.append((refusal(octets, SERVFAIL, seen, _OVERLOADED), client))
            else:
                queries.append(Query(listener, client, octets, seen, sent, self._ordering(), deadline))
        if answers:
            listener.send_answers(answers)
        if queries:
            due = now + self._attempt_timeout
            for query in queries:
                query.due = due
                self._fresh[query] = None
            if self._timer is None:
                self._timer = self._clock.callLater(self._attempt_timeout, self._look)
            self._ask(queries)
        return silent

    def answered(self, upstream: Upstream, answers: Iterable[tuple[Query, bytes]]) -> None:
        """
        An upstream answered; what nobody waits for any more is dropped.
        """
        outgoing: dict[Listener, Answers] = {}
        unusable: dict[str, list[Query]] = {}
        for query, reply in answers:
            if not self.is_wanted(query):
                continue
            try:
                octets = self._hop.incoming(query.octets, query.seen, reply)
            except WireError as error:
                unusable.setdefault(error.reason, []).append(query)
                continue
            self._take(query)
            if not query.listener.is_stream:
                limit = min(query.seen.udp_size, self._udp_max_size)
                if len(octets) > limit:
                    octets = truncated(octets, query.octets, query.seen, limit)
            if query.listener in outgoing:
                outgoing[query.listener].append((octets, query.client))
            else:
                outgoing[query.listener] = [(octets, query.client)]
        self._send(outgoing)
        for reason, queries in unusable.items():
            self.failed(
                upstream, queries, BadReply("read", f"an answer of no use: {reason}", upstream.label), is_final=False
            )

    def failed(self, upstream: Upstream, tokens: Iterable[Query], error: UpstreamError, *, is_final: bool) -> None:
        """
        An upstream did not answer these; each is asked of the next, or told why there is none.
        """
        index = self._upstreams.index(upstream)
        due = self._now() + self._attempt_timeout
        again: dict[Query, None] = {}  # one may have been asked twice over the same connection
        for query in tokens:
            if not self.is_wanted(query):
                continue
            query.pending = taken_back(query.pending, index)
            query.errors = (*(e for e in query.errors if e.upstream != error.upstream), error)
            if is_final:
                query.tried = given_up(query.tried, index)
            elif isinstance(error, ConnectionGone) and error.made_progress and query.forgiven < MAX_FORGIVEN:
                query.tried = taken_back(query.tried, index)
                query.forgiven += 1
            self._fresh.pop(query, None)
            query.due = min(due, query.deadline)
            self._late[query] = None
            again[query] = None
        self._ask(again)
        self._watch()

    def is_wanted(self, token: Query) -> bool:
        """
        Whether a query is still live.
        """
        return token in self._fresh or token in self._late

    def drain(self) -> Deferred[None]:
        """
        Return a Deferred that fires when no query is live; to be called when no more come.
        """
        if not self.outstanding:
            return succeed(None)
        self._drained = Deferred()
        return self._drained

    def stop(self) -> None:
        """
        Answer whatever is still live with SERVFAIL, and watch over nothing any more.
        """
        self._refuse([*self._fresh, *self._late], "shutting down")
        self._watch()

    def _take(self, query: Query) -> bool:
        if query in self._fresh:
            del self._fresh[query]
        elif query in self._late:
            del self._late[query]
        else:
            return False
        return True

    def _ask(self, queries: Iterable[Query], lively: Collection[int] = ()) -> None:
        """
        Send each to the upstream that is next for it; those for which there is none are refused.

        One that was asked and may still answer is asked again only if it is ``lively``.
        """
        asks: dict[int, list[tuple[Query, bytes, int]]] = {}
        hopeless: list[Query] = []
        upstreams = self._upstreams
        for query in queries:
            chosen: tuple[int, ...] = (query.order[0],)
            if query.tried or not upstreams[chosen[0]].is_up:
                busy = [index for index in query.pending if index not in lively]
                chosen = next_upstreams(query.order, query.tried, busy, self._is_up)
                if not chosen:
                    if query.pending:  # somebody who was asked may still answer
                        query.due = query.deadline
                    else:
                        hopeless.append(query)
                    continue
            query.tried += chosen
            query.pending += chosen
            question = (query, query.sent, query.seen.question_end)
            for index in chosen:
                if index in asks:
                    asks[index].append(question)
                else:
                    asks[index] = [question]
        for index, questions in asks.items():
            upstreams[index].ask(questions)
        if hopeless:
            self._refuse(hopeless)

    def _is_up(self, index: int) -> bool:
        return self._upstreams[index].is_up

    def _look(self) -> None:
        """
        Find what is overdue: past its deadline it is refused, before that somebody else is asked too.
        """
        self._timer = None
        now = self._now() + _GRAIN / 2
        overdue: list[Query] = []
        for query in self._fresh:
            if query.due > now:
                break
            overdue.append(query)
        overdue += [query for query in self._late if query.due <= now]
        past: list[Query] = []
        again: list[Query] = []
        lively: dict[int, bool] = {}
        for query in overdue:
            self._take(query)
            self._late[query] = None
            if query.deadline <= now:
                past.append(query)
                continue
            query.due = min(now + self._attempt_timeout, query.deadline)
            if (last := query.tried[-1] if query.tried else query.order[0]) not in lively:
                lively[last] = self._upstreams[last].suspect()
            if lively[last] or any(index not in query.tried for index in query.order):
                again.append(query)
        self._ask([query for query in again if query in self._late], {index for index in lively if lively[index]})
        self._refuse([query for query in past if query in self._late])
        self._watch()

    def _watch(self) -> None:
        """
        Set the timer for the next query that will be overdue.
        """
        nexts = [query.due for query in self._late]
        if self._fresh:
            nexts.append(next(iter(self._fresh)).due)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if nexts:
            self._timer = self._clock.callLater(max(_GRAIN, min(nexts) - self._now()), self._look)

    def _refuse(self, queries: Iterable[Query], why: str = "") -> None:
        outgoing: dict[Listener, Answers] = {}
        for query in queries:
            if self._take(query):
                error = ExtendedError(EDE_OTHER, why) if why else self._explain(query)
                octets = refusal(query.octets, SERVFAIL, query.seen, error)
                outgoing.setdefault(query.listener, []).append((octets, query.client))
        self._send(outgoing)

    def _explain(self, query: Query) -> ExtendedError:
        """
        Say which upstreams failed a query, and how.
        """
        errors = list(query.errors)
        told = {error.upstream for error in errors}
        for index in dict.fromkeys(query.tried):
            label = self._upstreams[index].label
            if label not in told:
                errors.append(Timeout("read", "no answer in time", label))
        never_reached = all(isinstance(error, Unreachable | Untrusted) or error.phase == "connect" for error in errors)
        code = EDE_NO_REACHABLE_AUTHORITY if never_reached else EDE_NETWORK_ERROR
        return ExtendedError(code, "; ".join(map(str, errors)))

    def _send(self, outgoing: dict[Listener, Answers]) -> None:
        for listener, answers in outgoing.items():
            listener.send_answers(answers)
        if self._drained is not None and not self.outstanding:
            drained, self._drained = self._drained, None
            drained.callback(None)


_OVERLOADED = ExtendedError(EDE_OTHER, "too many queries outstanding")
