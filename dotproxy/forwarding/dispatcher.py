"""
Queries at upstreams: sends each to an upstream, retries and hedges it, and fails it at its deadline.

Decides the sequence of these steps.  ``policy.selection`` decides which upstream is preferred, ``policy.retry`` which
is next, and the upstream's ``latency`` when a query is overdue.  Refuses to know which clients wait for a response.

A query is in flight until the observer has its outcome.  The code that removes it from ``InflightQueries`` reports the
outcome, so it is reported exactly once, whatever upstreams do afterwards; the deadline removes what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dotproxy.errors import BadReply, ConnectionGone, TruncatedReply, UpstreamError, WireError
from dotproxy.forwarding.inflight import DispatchObserver, FallbackResponse, InflightQueries, Query, explain
from dotproxy.forwarding.interfaces import Upstream, UpstreamResponse
from dotproxy.forwarding.settings import DispatcherSettings
from dotproxy.forwarding.upstream_table import UpstreamTable
from dotproxy.policy.retry import MAX_ERROR_RESPONSES, Isolation, taken_back
from dotproxy.wire.edns import EDE_OTHER, ExtendedError
from dotproxy.wire.message import REFUSED, SERVFAIL
from dotproxy.wire.reply_options import is_bogus

#: The least time between two runs of the timer, in seconds.
_GRAIN = 0.02

_WEAK = (SERVFAIL, REFUSED)
_NEVER = float("inf")

#: A SERVFAIL within this many seconds is probably transient; a slower one followed a real resolution attempt.
_AT_ONCE = 0.25


class Dispatcher:
    """
    Owns: every query in flight, and the one timer for them.
    Told by: its owner (``dispatch``, ``forget``, ``stop``), upstreams (``replies_received``, ``failed``).
    """

    _observer: DispatchObserver

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        settings: DispatcherSettings,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
    ) -> None:
        self.upstream_table = UpstreamTable(upstreams)
        self._upstreams = self.upstream_table.slots
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._attempt_timeout = settings.longest_attempt
        self._inflight = InflightQueries(len(self._upstreams))
        self._delays = self._learned_delays()
        self._shortest = min(self._delays)
        self._timer: IDelayedCall | None = None
        self._timer_at = _NEVER
        for upstream in self._upstreams:
            upstream.bind(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._inflight.summary}>"

    def bind(self, observer: DispatchObserver) -> None:
        """
        Report the outcome of queries to ``observer``.  To be called once, before the first query.
        """
        self._observer = observer

    def apply_settings(self, upstreams: Sequence[Upstream], settings: DispatcherSettings) -> None:
        """
        Use these upstreams and settings from now on; queries in flight go on.
        """
        self.upstream_table.replace(upstreams, self._monotonic())
        self._inflight.add_upstreams(len(self._upstreams))
        for upstream in upstreams:
            upstream.bind(self)
        self._settings = settings
        self._attempt_timeout = settings.longest_attempt
        self._reset_timer()

    @property
    def query_timeout(self) -> float:
        """
        The longest time that a query is in flight, in seconds.
        """
        return self._settings.query_timeout

    def __len__(self) -> int:
        return len(self._inflight)

    def __iter__(self) -> Iterator[Query]:
        return iter(self._inflight)

    def dispatch(self, queries: list[Query], now: float) -> None:
        """
        Send queries to upstreams; the observer gets the outcome of each exactly once, now or later.
        """
        self._settings.hedging.credit(len(queries))
        self._send(queries, now)
        due = now + self._shortest
        if due < self._timer_at and len(self._inflight):
            self._set_timer(due)

    def replies_received(self, upstream: Upstream, answers: Iterable[tuple[Query, bytes]]) -> None:
        """
        Process the replies of an upstream; drop those to queries that are no longer in flight.
        """
        index = self._upstreams.index(upstream)
        now = self._monotonic()
        parse = self._settings.parse_response
        resolved: list[tuple[Query, UpstreamResponse]] = []
        unusable: dict[str, list[Query]] = {}
        reduced: list[Query] = []
        weak: list[Query] = []
        first: Query | None = None
        count = 0
        rcodes = upstream.counters.answers
        for query, reply in answers:
            rcodes[reply[3] & 15] += 1
            if query.queue is None:
                continue
            try:
                response = parse(query.octets, query.info, reply)
            except WireError as error:
                if isinstance(error, TruncatedReply) and query.reduce_opt(index):
                    reduced.append(query)
                else:
                    unusable.setdefault(error.reason, []).append(query)
                continue
            count += 1
            first = first or query
            if (rcode := reply[3] & 15) and rcode in _WEAK and self._should_try_another(query, index, reply, now):
                query.fallback = FallbackResponse(response, upstream.label)
                weak.append(query)
                continue
            self._inflight.take(query)
            resolved.append((query, response))
        if first is not None and first.attempts[0] == index:
            upstream.counters.answer_seconds.add(now - first.started_at, count)
            self.upstream_table.note_latency(index, now, now - first.started_at, count)
        if reduced:
            self._send_reduced(index, reduced, now)
        if resolved:
            self._observer.resolved(resolved, upstream.label, now)
        for reason, queries in unusable.items():
            useless = BadReply("read", f"an answer of no use: {reason}", upstream.label)
            self.failed(upstream, queries, useless, is_final=False)
        if weak:
            self._try_others(index, weak, now)

    def _send_reduced(self, index: int, queries: list[Query], now: float) -> None:
        """
        Send queries to the same upstream again, with the least OPT: their replies were truncated over a stream.
        """
        wait = self._upstreams[index].latency.overdue_after(self._attempt_timeout)
        for query in queries:
            self._inflight.reschedule(query, now + wait)
        self.upstream_table.send_again(index, queries, now)
        self._reset_timer()

    def _try_others(self, index: int, queries: list[Query], now: float) -> None:
        """
        Send queries to another upstream, unless one has them: this one responded SERVFAIL or REFUSED.
        """
        self._upstreams[index].record_late(len(queries))
        for query in queries:
            query.awaiting = taken_back(query.awaiting, index)
        # A client that was just sent its response may have ended them: by closing the resolver.
        self._send([query for query in queries if query.queue is not None and not query.awaiting], now)

    def failed(self, upstream: Upstream, tokens: Iterable[Query], error: UpstreamError, *, is_final: bool) -> None:
        """
        Send queries that an upstream did not respond to elsewhere, or fail them; ``is_final``: never to it again.
        """
        index = self._upstreams.index(upstream)
        now = self._monotonic()
        again: dict[Query, None] = {}  # ``tokens`` has a query twice that was sent twice over a connection
        enough: list[Query] = []
        for query in tokens:
            if query.queue is None:
                continue
            query.awaiting = taken_back(query.awaiting, index)
            if query in again:
                continue
            self._note_error(query, index, error, now, is_final=is_final)
            self._inflight.reschedule(query, now + self._attempt_timeout)
            if query.fallback is not None and not query.awaiting and not query.is_untried:
                enough.append(query)
            else:
                again[query] = None
        self._send(again, now)
        self._fail(enough, now)
        self._reset_timer()

    def _note_error(self, query: Query, index: int, error: UpstreamError, now: float, *, is_final: bool) -> None:
        """
        Record in a query why an upstream did not respond to it, and whether it may be sent there again.
        """
        query.is_simple = False
        query.errors = (*(e for e in query.errors if e.upstream != error.upstream), error)
        if isinstance(error, ConnectionGone):
            query.lost_connections += 1
            query.lost_alone += error.was_alone
        elif error.was_not_sent:
            query.attempts = taken_back(query.attempts, index)
        # A query that was not sent may wait for its upstream to come back up, for half of the query timeout.
        if is_final or (error.was_not_sent and now >= query.started_at + self._settings.query_timeout / 2):
            query.given_up += (index,)

    def is_wanted(self, token: Query) -> bool:
        """
        Return whether a query is still in flight.
        """
        return token.queue is not None

    def forget(self, query: Query) -> None:
        """
        Remove a query from the table; its outcome is not reported.
        """
        self._inflight.take(query)

    def stop(self) -> None:
        """
        Fail all queries in flight, and cancel the timer.
        """
        self._fail(list(self._inflight), self._monotonic(), "shutting down")
        self._reset_timer()

    def _send(self, queries: Iterable[Query], now: float, responsive: Collection[int] = ()) -> None:
        """
        Send each query to its next upstream; those without one fail.

        One that was sent to an upstream that may still respond is sent there again only if that is ``responsive``.
        """
        batches: dict[int, list[tuple[Query, bytes, int]]] = {}
        isolated: list[tuple[int, Isolation, Query]] = []
        hopeless: list[Query] = []
        upstreams = self._upstreams
        at_once = self._settings.at_once
        for query in queries:
            first = query.order[0]
            chosen: tuple[int, ...] = (first,)
            is_simple = query.is_simple and at_once == 1
            if not is_simple or upstreams[first].tier or upstreams[first].quarantine.until > now:
                is_simple = False
                chosen = self.upstream_table.choose(query, responsive, at_once, now)
                if not chosen:
                    if query.awaiting:  # an upstream may still respond
                        self._inflight.reschedule(query, query.deadline)
                    else:
                        hopeless.append(query)
                    continue
            if query.queue is None:
                self._inflight.add(query, chosen)
            else:
                self._note_sent_again(query, chosen, now)
            for index in chosen:
                if not is_simple and (isolation := self.upstream_table.isolation_of(query, index, now)):
                    isolated.append((index, isolation, query))
                elif index in batches:
                    batches[index].append((query, query.sent, query.info.question_end))
                else:
                    batches[index] = [(query, query.sent, query.info.question_end)]
        for index, batch in batches.items():
            upstreams[index].send(batch)
        if isolated:
            self.upstream_table.send_isolated(isolated)
        if hopeless:
            self._fail(hopeless, now)

    def _note_sent_again(self, query: Query, chosen: tuple[int, ...], now: float) -> None:
        """
        Record in a query that it is sent to these upstreams too, and when it is overdue there.
        """
        if query.queue is self._inflight.rescheduled:
            wait = self._upstreams[chosen[0]].latency.overdue_after(self._attempt_timeout)
            self._inflight.reschedule(query, now + wait)
        query.attempts += chosen
        query.awaiting += chosen

    def _should_try_another(self, query: Query, index: int, reply: bytes, now: float) -> bool:
        """
        Count a SERVFAIL or REFUSED; return whether a further attempt may get a better response.
        """
        query.error_responses += 1
        if any(other != index for other in query.awaiting):
            return True
        age = now - query.started_at
        if query.error_responses >= MAX_ERROR_RESPONSES or age > self._settings.query_timeout / 2 or is_bogus(reply):
            return False
        return query.is_untried or (reply[3] & 15 == SERVFAIL and age < _AT_ONCE)

    def _check_overdue(self) -> None:
        """
        Hedge queries that are slow, retry those that are overdue, and fail those past their deadline.
        """
        self._timer, self._timer_at = None, _NEVER
        now = self._monotonic() + _GRAIN / 2
        past: list[Query] = []
        again: list[Query] = []
        responsive: dict[int, bool] = {}
        late: dict[int, int] = {}
        for query in self._inflight.overdue(now, self._delays):
            first = query.attempts[0] if query.attempts else query.order[0]
            if query.deadline <= now:
                past.append(query)
                continue
            is_fresh = query.queue is not self._inflight.rescheduled
            if is_fresh and now < (overdue := self._overdue_at(query, first)):
                if self._watch_slow(query, first, overdue, now):
                    again.append(query)
                continue
            if is_fresh or query.is_hedged:
                query.is_hedged = False
                late[first] = late.get(first, 0) + 1
            self._inflight.reschedule(query, now + self._attempt_timeout)
            last = query.attempts[-1] if query.attempts else first
            if last not in responsive:
                responsive[last] = self._upstreams[last].check_liveness(query.started_at)
            if self._observer.may_retry(query) if responsive[last] else query.is_untried:
                again.append(query)
        for index, count in late.items():
            self._upstreams[index].record_late(count)
            self._upstreams[index].counters.retries += count
        responsive_now = {index for index, is_responsive in responsive.items() if is_responsive}
        self._send([query for query in again if query.queue], now, responsive_now)
        self._fail([query for query in past if query.queue], now)
        self._reset_timer()

    def _overdue_at(self, query: Query, first: int) -> float:
        return query.started_at + self._upstreams[first].latency.overdue_after(self._attempt_timeout)

    def _watch_slow(self, query: Query, first: int, overdue: float, now: float) -> bool:
        """
        Check a slow query again when it is overdue; return whether to hedge it: to send it to another upstream, too.
        """
        self._inflight.reschedule(query, overdue)
        query.is_hedged = True
        self._upstreams[first].watch(query.started_at, overdue - now)
        if not self._may_hedge(query):
            return False
        self._upstreams[first].counters.hedges += 1
        return True

    def _may_hedge(self, query: Query) -> bool:
        others = [index for index in query.order if index not in query.attempts and index not in query.given_up]
        return any(not self._upstreams[index].tier for index in others) and self._settings.hedging.try_spend()

    def _learned_delays(self) -> list[float]:
        """
        Return after how many seconds a first attempt is checked, for each slot.
        """
        limit = self._attempt_timeout
        if self._settings.hedging.is_off or len(self.upstream_table.active) == 1:
            return [upstream.latency.overdue_after(limit) for upstream in self._upstreams]
        return [upstream.latency.hedge_after(limit) for upstream in self._upstreams]

    def _reset_timer(self) -> None:
        """
        Set the timer for the next query that is due.
        """
        self._delays = self._learned_delays()
        self._shortest = min(self._delays)
        self._set_timer(self._inflight.next_due(self._delays))

    def _set_timer(self, due: float | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer, self._timer_at = None, _NEVER
        if due is not None:
            self._timer_at = due
            self._timer = self._clock.callLater(max(_GRAIN, due - self._monotonic()), self._check_overdue)

    def _fail(self, queries: Iterable[Query], now: float, why: str = "") -> None:
        """
        Tell the observer that queries failed; those with a fallback are resolved with it.
        """
        spared: dict[str, list[tuple[Query, UpstreamResponse]]] = {}
        refused: list[tuple[Query, ExtendedError]] = []
        for query in queries:
            if not self._inflight.take(query):
                continue
            if query.fallback is not None:
                spared.setdefault(query.fallback.upstream, []).append((query, query.fallback.response))
            else:
                error = ExtendedError(EDE_OTHER, why) if why else explain(query, self.upstream_table.labels)
                refused.append((query, error))
        for label, answers in spared.items():
            self._observer.resolved(answers, label, now)
        if refused:
            self._observer.failed(refused, now)
