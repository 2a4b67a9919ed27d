"""
A question on its way to an answer: whom it is asked of, when it is asked again, and when that is given up.

Decides the order of things and nothing else: whom to prefer is ``selection``'s word, whom to ask next ``attempts``'s,
when one is late the upstream's own ``latency``'s.  Refuses to know who waits for an answer, and where.

A question is *live* until its outcome is told to the owner.  Taking it out of ``live`` is taking charge of telling,
so it is told exactly once, whatever its upstreams do afterwards; and the deadline takes out whatever is left.
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

#: Timers closer together than this, in seconds, are one.
_GRAIN = 0.02

_WEAK = (SERVFAIL, REFUSED)
_NEVER = float("inf")
_LONG_AGO = float("-inf")

#: How often an upstream is told what its answers take, in seconds.
_SAMPLED = 0.005

#: A SERVFAIL that came sooner than this may be a mood of the upstream's; one that took longer cost it an effort.
_AT_ONCE = 0.25


class Dispatcher:
    """
    Owns: every live question, and the one timer that watches over them.
    Told by: its owner (``ask``), upstreams (``replies_received``, ``failed``).
    """

    observer: DispatchObserver

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
        self._noted = [(_LONG_AGO, 0)] * len(self._upstreams)
        self._shortest = min(self._delays)
        self._timer: IDelayedCall | None = None
        self._timer_at = _NEVER
        for upstream in self._upstreams:
            upstream.bind(self)

    def apply_settings(self, upstreams: Sequence[Upstream], settings: DispatcherSettings) -> None:
        """
        Use these upstreams and settings from now on; queries in flight go on.
        """
        self.upstream_table.replace(upstreams, self._monotonic())
        more = len(self._upstreams) - len(self._noted)
        self._noted += [(_LONG_AGO, 0)] * more
        self._inflight.first_attempt += [{} for _ in range(more)]
        for upstream in upstreams:
            upstream.bind(self)
        self._settings = settings
        self._attempt_timeout = settings.longest_attempt
        self._reset_timer()

    @property
    def query_timeout(self) -> float:
        """
        How long a query may be in flight, in seconds.
        """
        return self._settings.query_timeout

    def __len__(self) -> int:
        """
        How many questions are live.
        """
        return len(self._inflight)

    def __iter__(self) -> Iterator[Query]:
        """
        Each of them.
        """
        return iter(self._inflight)

    def dispatch(self, queries: list[Query], now: float) -> None:
        """
        Ask these; the owner is told what comes of each, exactly once, now or later.
        """
        self._settings.hedging.credit(len(queries))
        self._send(queries)
        due = now + self._shortest
        if due < self._timer_at and len(self._inflight):
            self._set_timer(due)

    def replies_received(self, upstream: Upstream, answers: Iterable[tuple[Query, bytes]]) -> None:
        """
        An upstream answered; what nobody waits for any more is dropped.
        """
        index = self._upstreams.index(upstream)
        now = self._monotonic()
        read = self._settings.parse_response
        told: list[tuple[Query, UpstreamResponse]] = []
        unusable: dict[str, list[Query]] = {}
        large: list[Query] = []
        weak: list[Query] = []
        first: Query | None = None
        count = 0
        rcodes = upstream.counters.answers
        for query, reply in answers:
            rcodes[reply[3] & 15] += 1
            if query.queue is None:
                continue
            try:
                answer = read(query.octets, query.info, reply)
            except WireError as error:
                if isinstance(error, TruncatedReply) and query.reduce_opt(index):
                    large.append(query)
                else:
                    unusable.setdefault(error.reason, []).append(query)
                continue
            count += 1
            first = first or query
            if (rcode := reply[3] & 15) and rcode in _WEAK and self._should_try_another(query, index, reply, now):
                query.fallback = FallbackResponse(answer, upstream.label)
                weak.append(query)
                continue
            self._inflight.take(query)
            told.append((query, answer))
        if first is not None and first.attempts[0] == index:
            upstream.counters.answer_seconds.add(now - first.started_at, count)
            self._note_time(index, now, now - first.started_at, count)
        for query in large:
            self._inflight.reschedule(query, now + upstream.latency.overdue_after(self._attempt_timeout))
        if large:
            self.upstream_table.send_again(index, large, now)
            self._reset_timer()
        if told:
            self.observer.resolved(told, upstream.label)
        for reason, queries in unusable.items():
            useless = BadReply("read", f"an answer of no use: {reason}", upstream.label)
            self.failed(upstream, queries, useless, is_final=False)
        if weak:
            upstream.record_late(len(weak))
            for query in weak:
                query.awaiting = taken_back(query.awaiting, index)
            self._send([query for query in weak if not query.awaiting])

    def _note_time(self, index: int, now: float, took: float, answers: int) -> None:
        """
        Tell an upstream what its answers take, not oftener than is worth while.
        """
        since, before = self._noted[index]
        if now - since < _SAMPLED:
            self._noted[index] = (since, before + answers)
        else:
            self._noted[index] = (now, 0)
            self._upstreams[index].record_latency(took, before + answers)

    def failed(self, upstream: Upstream, tokens: Iterable[Query], error: UpstreamError, *, is_final: bool) -> None:
        """
        An upstream did not answer these; each is asked of the next, or told why there is none.
        """
        index = self._upstreams.index(upstream)
        now = self._monotonic()
        again: dict[Query, None] = {}  # one may have been sent twice over the same connection
        enough: list[Query] = []
        for query in tokens:
            if query.queue is None:
                continue
            query.awaiting = taken_back(query.awaiting, index)
            if query in again:
                continue
            query.is_simple = False
            query.errors = (*(e for e in query.errors if e.upstream != error.upstream), error)
            if isinstance(error, ConnectionGone):
                query.lost_connections += 1
                query.lost_alone += error.was_alone
            elif error.was_not_sent:
                query.attempts = taken_back(query.attempts, index)
            # What was not sent may wait for the upstream to be back, but not for ever.
            if is_final or (error.was_not_sent and now >= query.started_at + self._settings.query_timeout / 2):
                query.given_up += (index,)
            self._inflight.reschedule(query, now + self._attempt_timeout)
            if query.fallback is not None and not query.awaiting and not query.is_untried:
                enough.append(query)
            else:
                again[query] = None
        self._send(again)
        self._fail(enough)
        self._reset_timer()

    def is_wanted(self, token: Query) -> bool:
        """
        Whether a query is still live.
        """
        return token.queue is not None

    def forget(self, query: Query) -> None:
        """
        Nobody needs to know any more.
        """
        self._inflight.take(query)

    def stop(self) -> None:
        """
        Give up whatever is still live, and watch over nothing any more.
        """
        self._fail(list(self._inflight), "shutting down")
        self._reset_timer()

    def _send(self, queries: Iterable[Query], responsive: Collection[int] = ()) -> None:
        """
        Send each to the upstream that is next for it; those for which there is none are refused.

        One that was asked and may still answer is asked again only if it is ``responsive``.
        """
        asks: dict[int, list[tuple[Query, bytes, int]]] = {}
        apart: list[tuple[int, Isolation, Query]] = []
        hopeless: list[Query] = []
        upstreams = self._upstreams
        at_once = self._settings.at_once
        now = self._monotonic()
        for query in queries:
            first = query.order[0]
            chosen: tuple[int, ...] = (first,)
            is_simple = query.is_simple and at_once == 1
            if not is_simple or upstreams[first].tier or upstreams[first].quarantine.until > now:
                is_simple = False
                chosen = self.upstream_table.choose(query, responsive, at_once, now)
                if not chosen:
                    if query.awaiting:  # somebody who was asked may still answer
                        self._inflight.reschedule(query, query.deadline)
                    else:
                        hopeless.append(query)
                    continue
            if query.queue is None:
                self._inflight.add(query, chosen[0])
            elif query.queue is self._inflight.rescheduled:
                wait = upstreams[chosen[0]].latency.overdue_after(self._attempt_timeout)
                self._inflight.reschedule(query, now + wait)
            query.is_simple = False
            query.attempts += chosen
            query.awaiting += chosen
            for index in chosen:
                if not is_simple and (isolation := self.upstream_table.isolation_of(query, index, now)):
                    apart.append((index, isolation, query))
                elif index in asks:
                    asks[index].append((query, query.sent, query.info.question_end))
                else:
                    asks[index] = [(query, query.sent, query.info.question_end)]
        for index, questions in asks.items():
            upstreams[index].send(questions)
        if apart:
            self._send_isolated(apart)
        if hopeless:
            self._fail(hopeless)

    def _send_isolated(self, queries: list[tuple[int, Isolation, Query]]) -> None:
        """
        Have queries sent on connections of their own; those that are ordinary before those that are not.
        """
        batches: dict[tuple[bool, int, Isolation], list[tuple[Query, bytes, int]]] = {}
        for index, isolation, query in queries:
            is_background = query.is_unusual or isolation is Isolation.KNOWN
            batch = batches.setdefault((is_background, index, isolation), [])
            batch.append((query, query.sent, query.info.question_end))
        for is_background, index, isolation in sorted(batches):
            batch = batches[is_background, index, isolation]
            self._upstreams[index].send_isolated(batch, isolation, is_background=is_background)

    def _should_try_another(self, query: Query, index: int, reply: bytes, now: float) -> bool:
        """
        Count a SERVFAIL or REFUSED; return whether another upstream, or the same again, may respond better.
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
        Find what is slow, and ask a few of those elsewhere too; what is overdue, and ask all of that elsewhere; what
        is past its deadline, and refuse it.
        """
        self._timer, self._timer_at = None, _NEVER
        now = self._monotonic() + _GRAIN / 2
        past: list[Query] = []
        again: list[Query] = []
        responsive: dict[int, bool] = {}
        late: dict[int, int] = {}
        for query in self._inflight.overdue(now, self._delays):
            is_fresh = query.queue is not self._inflight.rescheduled
            first = query.attempts[0] if query.attempts else query.order[0]
            if query.deadline <= now:
                past.append(query)
                continue
            if is_fresh:
                overdue = query.started_at + self._upstreams[first].latency.overdue_after(self._attempt_timeout)
                if now < overdue:
                    self._inflight.reschedule(query, overdue)
                    query.is_hedged = True
                    self._upstreams[first].watch(query.started_at, overdue - now)
                    if self._may_hedge(query):
                        self._upstreams[first].counters.hedges += 1
                        again.append(query)
                    continue
            if is_fresh or query.is_hedged:
                query.is_hedged = False
                late[first] = late.get(first, 0) + 1
            self._inflight.reschedule(query, now + self._attempt_timeout)
            last = query.attempts[-1] if query.attempts else first
            if last not in responsive:
                responsive[last] = self._upstreams[last].check_liveness(query.started_at)
            if self.observer.may_retry(query) if responsive[last] else query.is_untried:
                again.append(query)
        for index, count in late.items():
            self._upstreams[index].record_late(count)
            self._upstreams[index].counters.retries += count
        self._send([query for query in again if query.queue], {index for index in responsive if responsive[index]})
        self._fail([query for query in past if query.queue])
        self._reset_timer()

    def _may_hedge(self, query: Query) -> bool:
        others = [index for index in query.order if index not in query.attempts and index not in query.given_up]
        return any(not self._upstreams[index].tier for index in others) and self._settings.hedging.try_spend()

    def _learned_delays(self) -> list[float]:
        """
        Return how long a fresh query waits before it is looked at, for each upstream it may have been asked of.
        """
        limit = self._attempt_timeout
        if self._settings.hedging.is_off or len(self.upstream_table.active) == 1:
            return [upstream.latency.overdue_after(limit) for upstream in self._upstreams]
        return [upstream.latency.hedge_after(limit) for upstream in self._upstreams]

    def _reset_timer(self) -> None:
        """
        Set the timer for the next query that is to be looked at.
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

    def _fail(self, queries: Iterable[Query], why: str = "") -> None:
        spared: dict[str, list[tuple[Query, UpstreamResponse]]] = {}
        refused: list[tuple[Query, ExtendedError]] = []
        for query in queries:
            if not self._inflight.take(query):
                continue
            if query.fallback is not None:
                spared.setdefault(query.fallback.upstream, []).append((query, query.fallback.response))
            else:
                refused.append(
                    (query, ExtendedError(EDE_OTHER, why) if why else explain(query, self.upstream_table.labels))
                )
        for label, answers in spared.items():
            self.observer.resolved(answers, label)
        if refused:
            self.observer.failed(refused)
