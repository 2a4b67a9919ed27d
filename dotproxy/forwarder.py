"""
The life of one query, from its octets to its answer.

Decides the order of things and nothing else: the answer given a moment ago, ``reception``'s verdict, the answer that
is kept, the same question that is being asked, and only then a question to the upstreams; what comes of that goes
to everybody who waits for it.  What is kept and for how long is ``answers``'s word, whom to ask and how often
``asking``'s.

Who waits for an answer stands in exactly one query; whoever takes the list of them out answers all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dotproxy.answering import Answering, as_cached
from dotproxy.asking import Asking
from dotproxy.delivery import Delivery
from dotproxy.live import Query, Waiting
from dotproxy.neighbours import Answers, Client, Hop, Listener, Origin, Transfers
from dotproxy.policy.answers import AnswerCache, Entry
from dotproxy.policy.failures import Failures
from dotproxy.policy.memo import LONGEST, Memo
from dotproxy.policy.selection import Ordering
from dotproxy.reception import TRANSFERS, Reception
from dotproxy.telemetry.counters import Counters, group_of
from dotproxy.wire.answer import Answer
from dotproxy.wire.edns import EDE_OTHER, ExtendedError
from dotproxy.wire.message import REFUSED, SERVFAIL
from dotproxy.wire.question import IN, is_unusual, key_of

#: Timers closer together than this, in seconds, are one.
_GRAIN = 0.02

#: A client that could have a stale answer waits this long for a fresh one, in seconds (RFC 8767 §5).
PATIENCE = 1.8

_OVERLOADED = ExtendedError(EDE_OTHER, "too many queries outstanding")
_WEAK = (SERVFAIL, REFUSED)


class Forwarder:
    """
    Owns: who waits for what, and the one timer that watches over those who could have a stale answer.
    Told by: listeners (``questions_received``), ``asking`` (``answered``, ``unanswered``).

    ``elapsed`` returns seconds on a clock that counts sleep, ``date`` seconds since 1970.
    """

    def __init__(
        self,
        asking: Asking,
        *,
        ordering: Ordering,
        reception: Reception,
        hop: Hop,
        transfers: Transfers,
        cache: AnswerCache | None,
        clock: IReactorTime,
        now: Callable[[], float],
        elapsed: Callable[[], float],
        date: Callable[[], float],
        udp_max_size: int,
        max_outstanding: int,
        failures: Failures | None = None,
    ) -> None:
        self.asking = asking
        self._ordering = ordering
        self._reception = reception
        self._hop = hop
        self._transfers = transfers
        self._cache = cache
        self._clock = clock
        self._now = now
        self._elapsed = elapsed
        self._date = date
        self._answering = Answering(hop, udp_max_size)
        self._max_outstanding = max_outstanding
        self.counters = Counters()
        self.delivery = Delivery(self._answering, self.counters, now, elapsed)
        self._memo = Memo(self.counters.answers)
        self.failures = Failures() if failures is None else failures
        self._joined: dict[bytes, Query] = {}
        self._waiting = 0
        self._impatient: deque[Query] = deque()
        self._timer: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None
        asking.owner = self

    @property
    def outstanding(self) -> int:
        """
        How many queries of clients have no answer yet.
        """
        return self._waiting

    def questions_received(self, listener: Listener, batch: Iterable[tuple[bytes, Client]]) -> int:
        """
        Take queries; the listener gets an answer to each, now or later, but for those that must have none.  Return how
        many of those there were.
        """
        elapsed = self._elapsed()
        kind = listener.kind
        memo = self._memo.at(elapsed, kind)
        counts, cache = self.counters.answers, self._cache
        admits, receive = self._reception.admits, self._reception.receive
        is_shared = self._hop.is_shared
        failures, log = len(self.failures), self.delivery.query_log
        answers: Answers = []
        queries: list[Query] = []
        silent = 0
        for octets, client in batch:
            known = memo.get(octets[2:])
            if known is not None and admits(client[0]):
                known[1] += 1
                answers.append((octets[:2] + known[0], client))
                continue
            seen = receive(listener, octets, client)
            if seen is None:
                silent += 1
                continue
            if isinstance(seen, bytes):
                counts[group_of(kind, 0, seen[3] & 15)] += 1
                answers.append((seen, client))
                if log is not None:
                    log.note(seen, Origin.LOCAL)
                continue
            if seen.qtype in TRANSFERS:
                sent = self._hop.outgoing(octets, seen)
                self._transfers.begin(listener, client, octets, seen, sent, self._ordering(octets, seen))
                continue
            waiting = (listener, client, octets, seen)
            key = key_of(octets, seen) if is_shared else b""
            entry = cache.look(key) if key and cache is not None else None
            if entry is not None and elapsed < entry[1]:
                answer: bytes | None = self._fresh(key, entry, waiting, queries, memo, elapsed)
            else:
                answer = self._failed_before(key, waiting, queries, elapsed) if failures else None
            if answer is None:
                answer = self._ask(key, waiting, queries, has_stale=entry is not None)
            if answer:
                counts[group_of(kind, seen.qtype, answer[3] & 15)] += 1
                answers.append((answer, client))
        self.counters.silent += silent
        if answers:
            self._send({listener: answers}, elapsed)
            self.counters.here.add(self._elapsed() - elapsed, len(answers))
        if cache is not None:
            cache.clients_asked(len(answers) + len(queries))
        if queries:
            self.asking.ask(queries, queries[0].asked_at)
        return silent

    def answered(self, answers: list[tuple[Query, Any]], upstream: str) -> None:
        """
        Called when questions were answered, by the upstream with this label; what each answer says has been read.
        """
        outgoing: dict[Listener, Answers] = {}
        elapsed = self._elapsed()
        date = int(self._date())
        give = self.delivery.give
        for query, answer in answers:
            said = answer
            if query.key:
                self._joined.pop(query.key, None)
                if self._cache is None:
                    pass
                elif answer.head[1] & 15 in _WEAK:
                    self.failures.add(query.key, answer.without_records(), elapsed)
                    self._give_failure(query, answer, outgoing, Origin.UPSTREAM, upstream)
                    continue
                else:
                    self.failures.remove(query.key)
                    said = self._cache.add(query.key, answer, query.seen.qtype, elapsed, date)
            self._waiting -= give(query, said, outgoing, upstream)
        self._send(outgoing, elapsed)

    def unanswered(self, queries: list[tuple[Query, ExtendedError]]) -> None:
        """
        Called when questions were not answered, with the reasons.
        """
        outgoing: dict[Listener, Answers] = {}
        elapsed = self._elapsed()
        for query, error in queries:
            if query.key:
                self._joined.pop(query.key, None)
                if self._cache is not None and self.asking.roster.is_anyone_up:  # so it is this question that fails
                    self.failures.add(query.key, error, elapsed)
            self._give_failure(query, error, outgoing, Origin.FAILED)
        self._send(outgoing, elapsed)

    def change(
        self, *, ordering: Ordering, reception: Reception, hop: Hop, udp_max_size: int, max_outstanding: int
    ) -> None:
        """
        Do as these say from now on.
        """
        self._ordering, self._reception, self._hop = ordering, reception, hop
        self._answering = self.delivery.answering = Answering(hop, udp_max_size)
        self._max_outstanding = max_outstanding
        self._memo.clear()

    def counted(self) -> Counters:
        """
        Return the counters as they are now.
        """
        self._memo.settle()
        self.counters.memo = self._memo.hits
        return self.counters

    def network_moved(self) -> None:
        """
        What failed may go well now.
        """
        self.failures.clear()

    def flushed(self) -> None:
        """
        The cache was emptied, or a part of it: nothing of it is given any more.
        """
        self._memo.clear()
        self.failures.clear()

    def drain(self) -> Deferred[None]:
        """
        Return a Deferred that fires when no client waits; to be called when no more come.
        """
        for query in self.asking:
            if not query.waiting:
                self._joined.pop(query.key, None)
                self.asking.forget(query)
        if not self._waiting:
            return succeed(None)
        self._drained = Deferred()
        return self._drained

    def stop(self) -> None:
        """
        Answer whoever still waits with SERVFAIL, or with what is stale, and watch over nothing any more.
        """
        self.asking.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._impatient.clear()

    def _fresh(
        self,
        key: bytes,
        entry: Entry,
        waiting: Waiting,
        queries: list[Query],
        memo: dict[bytes, list[Any]],
        elapsed: float,
    ) -> bytes:
        """
        Return the answer that is kept; add to ``queries`` what should be asked all the same.  Its age is rounded up to
        the end of the second for which it is remembered, so that no TTL is too high (RFC 1035 §3.2.1).
        """
        listener, _, octets, seen = waiting
        stored, expires, kept = entry
        second_ends = int(elapsed) + 1
        answer = self._answering.written(waiting, kept, second_ends - int(stored // 1))
        if expires >= second_ends and not seen.ours and len(octets) + len(answer) <= LONGEST:
            memo[octets[2:]] = [answer[2:], 0, group_of(listener.kind, seen.qtype, answer[3] & 15)]
        self.counters.fresh += 1
        assert self._cache is not None
        if self._cache.asked_for(key, entry, elapsed) and key not in self._joined:
            self.counters.prefetched += 1
            self._refresh(key, waiting, queries)
        return answer

    def _failed_before(self, key: bytes, waiting: Waiting, queries: list[Query], elapsed: float) -> bytes | None:
        """
        Return what is answered to a question that failed a moment ago, if it did; add to ``queries`` what should be
        asked all the same.
        """
        failure = self.failures.get(key)
        if failure is None:
            return None
        stale = self._stale(key)
        if elapsed >= failure.until:
            if stale is None:
                return None
            if key not in self._joined:  # it failed before, so nobody is kept waiting for it
                self._refresh(key, waiting, queries)
        if stale is None:
            self.counters.failed_before += 1
        else:
            self.counters.stale += 1
        if stale is None:
            return self.delivery.at_once(waiting, as_cached(failure.what), Origin.FAILURE_CACHE)
        return self.delivery.at_once(waiting, stale, Origin.STALE)

    def _ask(self, key: bytes, waiting: Waiting, queries: list[Query], *, has_stale: bool) -> bytes:
        """
        Have a question asked, unless it is being asked; return b"", or the answer if there is too much to do already.
        """
        if self._waiting >= self._max_outstanding:
            self.counters.overloaded += 1
            return self.delivery.at_once(waiting, _OVERLOADED, Origin.LOCAL)
        if key and (joined := self._joined.get(key)) is not None:
            return self._join(waiting, joined)
        self._waiting += 1
        self.counters.missed += 1
        query = self._refresh(key, waiting, queries)
        query.waiting.append(waiting)
        if has_stale:
            self._impatient.append(query)
            if self._timer is None:
                self._timer = self._clock.callLater(PATIENCE, self._give_what_is_stale)
        return b""

    def _refresh(self, key: bytes, waiting: Waiting, queries: list[Query]) -> Query:
        """
        Have a question asked for which nobody waits.
        """
        _, _, octets, seen = waiting
        now = self._now()
        sent = self._hop.outgoing(octets, seen, for_others=bool(key))
        query = Query(octets, seen, sent, self._ordering(octets, seen), now, now + self.asking.query_timeout, key)
        queries.append(query)
        if key:
            self._joined[key] = query
        if (not key or octets[seen.question_end - 1] != IN) and self._hop.is_shared:
            query.is_unusual = is_unusual(octets, seen)
            query.is_simple = not query.is_unusual
        return query

    def _join(self, waiting: Waiting, query: Query) -> bytes:
        """
        Wait with others; whoever comes when their patience is at its end has none either.
        """
        if self._now() - query.asked_at >= PATIENCE and (stale := self._stale(query.key)):
            self.counters.stale += 1
            return self.delivery.at_once(waiting, stale, Origin.STALE)
        self.counters.joined += 1
        self.delivery.joined(waiting, query)
        self._waiting += 1
        return b""

    def _stale(self, key: bytes) -> Answer | None:
        return self._cache.stale(key, self._elapsed()) if self._cache is not None else None

    def _give_failure(
        self, query: Query, failure: Any, outgoing: dict[Listener, Answers], origin: Origin, upstream: str = ""
    ) -> None:
        """
        Answer everybody who waits with a query with what is stale, or, without that, with a failure.
        """
        stale = self._stale(query.key) if query.key else None
        if stale is not None:
            self.counters.stale += len(query.waiting)
            failure, origin, upstream = stale, Origin.STALE, ""
        self._waiting -= self.delivery.give(query, failure, outgoing, upstream, origin)

    def _give_what_is_stale(self) -> None:
        """
        Patience is at an end: who could have a stale answer gets it, and the question goes on without them.
        """
        self._timer = None
        now = self._now()
        outgoing: dict[Listener, Answers] = {}
        while self._impatient and self._impatient[0].asked_at + PATIENCE <= now + _GRAIN:
            query = self._impatient.popleft()
            if query.waiting and (stale := self._stale(query.key)):
                self.counters.stale += len(query.waiting)
                self._waiting -= self.delivery.give(query, stale, outgoing, origin=Origin.STALE)
        while self._impatient and not self._impatient[0].waiting:
            self._impatient.popleft()
        if self._impatient:
            due = self._impatient[0].asked_at + PATIENCE - now
            self._timer = self._clock.callLater(max(_GRAIN, due), self._give_what_is_stale)
        self._send(outgoing, self._elapsed())

    def _send(self, outgoing: dict[Listener, Answers], since: float) -> None:
        self.delivery.send(outgoing, since)
        if self._drained is not None and not self._waiting:
            drained, self._drained = self._drained, None
            drained.callback(None)
