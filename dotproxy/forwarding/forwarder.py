"""
The path of a query, from its octets to the response.

Decides the sequence: the client's share, the packet cache, the query filter, the cache, an identical query in flight,
and last a query to upstreams.  The response goes to every client that waits for it.  Refuses to know which upstream
has a query, and what a response is made of.

Each client's request is in exactly one query; the code that removes a query's list of requests responds to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from dotproxy.cache.failures import FailureCache
from dotproxy.cache.key import is_unusual, key_of
from dotproxy.cache.packets import MAX_OCTETS, PacketCache
from dotproxy.cache.responses import CacheEntry, ResponseCache
from dotproxy.forwarding.client_filter import NEVER_ANSWERED, ClientFilter
from dotproxy.forwarding.delivery import Delivery
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.inflight import ClientRequest, Query
from dotproxy.forwarding.interfaces import Answers, Listener, Response, Transfers, UpstreamResponse
from dotproxy.forwarding.query_filter import TRANSFERS
from dotproxy.forwarding.response_builder import as_cached
from dotproxy.forwarding.settings import ForwarderSettings
from dotproxy.forwarding.stale_timer import STALE_AFTER, StaleTimer
from dotproxy.policy.client import Client, ClientMessage
from dotproxy.policy.client_shares import FULL_BATCH, ClientShare, ClientShares
from dotproxy.telemetry.counters import Counters, Origin, answer_index
from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.message import IN, REFUSED, SERVFAIL, QueryInfo
from dotproxy.wire.parsed_response import ParsedResponse

#: Ignored queries of a client with more queries in flight than this are not retried.
_RETRIED = 256

_WEAK = (SERVFAIL, REFUSED)

#: The constructor of a named tuple is written in Python, which takes longer.
_new = tuple.__new__


class Forwarder:
    """
    Owns: the cache keys of queries in flight, and the queries of a batch until they are dispatched.
    Told by: listeners (``handle_batch``), ``dispatcher`` (``resolved``, ``failed``).

    ``boottime`` returns seconds on a clock that counts suspend, ``wall_time`` seconds since 1970.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: ForwarderSettings,
        *,
        transfers: Transfers,
        cache: ResponseCache | None,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        boottime: Callable[[], float],
        wall_time: Callable[[], float],
        shares: ClientShares,
        failures: FailureCache | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self._ordering, self._query_filter, self._rewriter = settings.ordering, settings.query_filter, settings.rewriter
        self._transfers = transfers
        self._cache = cache
        self._monotonic = monotonic
        self._boottime = boottime
        self._wall_time = wall_time
        self.shares = shares
        self.counters = Counters()
        self._client_filter = ClientFilter(shares, self.counters, settings.limit_actions)
        self.delivery = Delivery(settings.response_builder, shares, self.counters, monotonic, boottime)
        self._packets = PacketCache(self.counters.answers)
        self.failures = FailureCache() if failures is None else failures
        self._joined: dict[bytes, Query] = {}
        self._queued: list[Query] = []
        self._stale_timer = StaleTimer(clock, monotonic, self._serve_stale)
        self._drained: Deferred[None] | None = None
        dispatcher.bind(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.outstanding} clients waiting, {self.dispatcher!r}>"

    @property
    def outstanding(self) -> int:
        """
        The number of clients' queries without a response.
        """
        return self.shares.in_flight

    def handle_batch(self, listener: Listener, batch: Sequence[ClientMessage]) -> int:
        """
        Process queries of a listener, which gets responses now or later; return how many get none.
        """
        boottime, now = self._boottime(), self._monotonic()  # once a batch
        by_host = self.shares.by_host
        packets = self._packets.entries_for(boottime, listener.kind)
        answers: Answers = []
        silent = 0
        for octets, client in batch:
            share = by_host.get(client.host)
            try:
                if share is not None and share.credit > 0 and client.port not in NEVER_ANSWERED:
                    share.credit -= 1
                    packet = packets.get(octets[2:])
                    if packet is not None:
                        packet.hits += 1
                        answers.append((octets[:2] + packet.octets, client))
                        continue
                    answer = self._respond(listener, octets, client, share, boottime, now)
                else:
                    answer = self._check(listener, octets, client, boottime, now)
            except Exception:  # a defect costs this client its response, and no other client
                self.delivery.log_defect(octets)
                answer = None
            if answer:
                answers.append((answer, client))
            elif answer is None:
                silent += 1
        self.counters.unanswered += silent
        self._finish_batch(listener, len(batch), answers, boottime, now)
        return silent

    def _finish_batch(self, listener: Listener, size: int, answers: Answers, boottime: float, now: float) -> None:
        """
        Send the responses to a batch of ``size`` queries, then dispatch the queries for upstreams.
        """
        queries = self._queued
        if queries:
            self._queued = []
        if (size >= FULL_BATCH or self.shares.full_since) and not listener.is_stream:
            self.shares.note_batch(listener, size, boottime)
        if answers:
            self.delivery.send(listener, answers, boottime)
            self._end_drain_if_done()
            self.counters.local_seconds.add(self._boottime() - boottime, len(answers))
        if self._cache is not None:
            self._cache.credit_prefetch(len(answers) + len(queries))
        if queries:
            self.dispatcher.dispatch(queries, now)

    def _check(self, listener: Listener, octets: bytes, client: Client, boottime: float, now: float) -> bytes | None:
        """
        Return as ``_respond`` does, for a client that is unknown or has no credit.
        """
        checked = self._client_filter.check(listener, octets, client, boottime)
        if not isinstance(checked, ClientShare):
            return None if checked is None else self.delivery.local(listener, checked)
        known = self._packets.response(boottime, listener.kind, octets)
        return known or self._respond(listener, octets, client, checked, boottime, now)

    def _respond(
        self, listener: Listener, octets: bytes, client: Client, share: ClientShare, boottime: float, now: float
    ) -> bytes | None:
        """
        Return the response to a query, b"" if it comes later, None if there is none.
        """
        info = self._query_filter.receive(listener, octets, client)
        if not isinstance(info, QueryInfo):
            return None if info is None else self.delivery.local(listener, info)
        if info.qtype in TRANSFERS:
            sent = self._rewriter.rewrite_query(octets, info)
            self._transfers.begin(listener, client, octets, info, sent, self._ordering(octets, info))
            return b""
        request = _new(ClientRequest, (listener, client, octets, info, share.account))
        key = key_of(octets, info) if self._rewriter.is_shared else b""
        entry = self._cache.peek(key) if key and self._cache is not None else None
        if entry is not None and boottime < entry.expires_at:
            return self._from_cache(key, entry, request, boottime, now)
        answer = self._failed_before(key, request, boottime, now) if len(self.failures) else None
        if answer is None:
            answer = self._ask(key, request, boottime, now, has_stale=entry is not None)
        if answer:
            self.counters.answers[answer_index(listener.kind, info.qtype, answer[3] & 15)] += 1
        return answer

    def resolved(self, answers: list[tuple[Query, UpstreamResponse]], upstream: str, now: float) -> None:
        """
        Cache the responses of the upstream with this label, and send them to all clients that wait for them.
        """
        boottime = self._boottime()
        wall_time = int(self._wall_time())
        for query, answer in answers:
            if query.key:
                self._joined.pop(query.key, None)
                if self._cache is None or not isinstance(answer, ParsedResponse):
                    pass
                elif answer.head[1] & 15 in _WEAK:
                    self.failures.add(query.key, answer.without_records(), boottime)
                    self._give_failure(query, answer, boottime, now, Origin.UPSTREAM, upstream)
                    continue
                else:
                    self.failures.remove(query.key)
                    answer = self._cache.add(query.key, answer, query.info.qtype, boottime, wall_time)  # noqa: PLW2901
            self.delivery.give(query, answer, now, upstream)
        self._send_given(boottime)

    def failed(self, queries: list[tuple[Query, ExtendedError]], now: float) -> None:
        """
        Send SERVFAIL with the reason, or a stale response, to all clients that wait for these queries.
        """
        boottime = self._boottime()
        # With every upstream down the question did not fail: no other would have succeeded.
        is_cached = self._cache is not None and self.dispatcher.upstream_table.is_anyone_up
        for query, error in queries:
            if query.key:
                self._joined.pop(query.key, None)
                if is_cached:
                    self.failures.add(query.key, error, boottime)
            self._give_failure(query, error, boottime, now, Origin.FAILED)
        self._send_given(boottime)

    def may_retry(self, query: Query) -> bool:
        """
        Return whether to retry an ignored query: not if all its clients have more than ``_RETRIED`` in flight.
        """
        accounts = [request.account for request in query.waiting]
        return not accounts or any(account.is_exempt or account.in_flight <= _RETRIED for account in accounts)

    def apply_settings(self, settings: ForwarderSettings) -> None:
        """
        Use these settings for queries that arrive from now on.
        """
        self._ordering, self._query_filter, self._rewriter = settings.ordering, settings.query_filter, settings.rewriter
        self.delivery.response_builder = settings.response_builder
        self._client_filter.actions = settings.limit_actions
        self._packets.clear()

    def counted(self) -> Counters:
        """
        Return the counters as they are now.
        """
        self._packets.flush_counts()
        self.counters.packet_cache_hits = self._packets.hits
        return self.counters

    def network_moved(self) -> None:
        """
        Forget failures: after a change of networks these questions may succeed.
        """
        self.failures.clear()

    def cache_flushed(self) -> None:
        """
        Empty the packet cache and the failure cache: the cache, or a part of it, was flushed.
        """
        self._packets.clear()
        self.failures.clear()

    def drain(self) -> Deferred[None]:
        """
        Return a Deferred that fires when no client waits for a response; cancel queries without a client.
        """
        for query in self.dispatcher:
            if not query.waiting:
                self._joined.pop(query.key, None)
                self.dispatcher.forget(query)
        self._drained = Deferred()
        return self._drained if self.outstanding else succeed(None)

    def stop(self) -> None:
        """
        Send SERVFAIL or a stale response to all clients that wait, and cancel timers.
        """
        self.dispatcher.stop()
        self._stale_timer.stop()
        self._end_drain()

    def _from_cache(self, key: bytes, entry: CacheEntry, request: ClientRequest, boottime: float, now: float) -> bytes:
        """
        Return a cached response; queue a query to refresh it if that is due.  Its age is rounded up to the end of this
        second, while the packet cache has it, so that no TTL is too high (RFC 1035 §3.2.1).
        """
        listener, _, octets, info, _ = request
        stored, expires, kept = entry
        second_ends = int(boottime) + 1
        answer = self.delivery.response_builder.build(request, kept, second_ends - int(stored // 1))
        index = answer_index(listener.kind, info.qtype, answer[3] & 15)
        self.counters.answers[index] += 1
        if expires >= second_ends and not info.response_options and len(octets) + len(answer) <= MAX_OCTETS:
            self._packets.add(listener.kind, octets, answer, index)
        self.counters.cache_hits += 1
        assert self._cache is not None
        if self._cache.note_hit(key, entry, boottime) and key not in self._joined:
            self.counters.prefetches += 1
            self._queue_query(key, request, now)
        return answer

    def _failed_before(self, key: bytes, request: ClientRequest, boottime: float, now: float) -> bytes | None:
        """
        Return the cached failure of a question, or a stale response (RFC 9520 §3.2); None if the question is to be sent
        to upstreams.  Queue a query if the failure has expired and the client gets a stale response.
        """
        failure = self.failures.get(key)
        if failure is None:
            return None
        stale = self._stale(key, boottime)
        if boottime >= failure.until:
            if stale is None:
                return None
            if key not in self._joined:  # it failed before, so the client does not wait for it
                self._queue_query(key, request, now)
        if stale is None:
            self.counters.failure_cache_hits += 1
            return self.delivery.at_once(request, as_cached(failure.what), Origin.FAILURE_CACHE)
        self.counters.stale_responses += 1
        return self.delivery.at_once(request, stale, Origin.STALE)

    def _ask(self, key: bytes, request: ClientRequest, boottime: float, now: float, *, has_stale: bool) -> bytes:
        """
        Queue a query for a client, or join one in flight; return b"", or the response if the client has its share.
        """
        if not self.shares.try_charge(request.account, len(request.octets)):
            return self.delivery.noted(self._client_filter.no_place(request))
        if key and (joined := self._joined.get(key)) is not None:
            return self._join(request, joined, boottime, now)
        self.counters.cache_misses += 1
        try:
            query = self._queue_query(key, request, now)
        except Exception:
            self.shares.release(request.account, len(request.octets))
            raise
        if has_stale:
            self._stale_timer.add(query)
        query.waiting.append(request)
        return b""

    def _queue_query(self, key: bytes, request: ClientRequest, now: float) -> Query:
        """
        Queue a query for upstreams, to be dispatched at the end of the batch; return it, without clients.
        """
        _, _, octets, info, _ = request
        sent = self._rewriter.rewrite_query(octets, info, for_others=bool(key))
        query = Query(octets, info, sent, self._ordering(octets, info), now, now + self.dispatcher.query_timeout, key)
        self._queued.append(query)
        if key:
            self._joined[key] = query
        if (not key or octets[info.question_end - 1] != IN) and self._rewriter.is_shared:
            query.is_unusual = is_unusual(octets, info)
            query.is_simple = not query.is_unusual
        return query

    def _join(self, request: ClientRequest, query: Query, boottime: float, now: float) -> bytes:
        """
        Add a client to a query in flight; return b"", or a stale response if the query is older than ``STALE_AFTER``.
        """
        if now - query.started_at >= STALE_AFTER and (stale := self._stale(query.key, boottime)):
            self.counters.stale_responses += 1
            self.shares.release(request.account, len(request.octets))
            return self.delivery.at_once(request, stale, Origin.STALE)
        self.counters.joined += 1
        self.delivery.joined(request, query, now)
        return b""

    def _stale(self, key: bytes, boottime: float) -> ParsedResponse | None:
        return self._cache.stale(key, boottime) if self._cache is not None else None

    def _give_failure(
        self, query: Query, failure: Response, boottime: float, now: float, origin: Origin, upstream: str = ""
    ) -> None:
        """
        Build a stale response for all clients that wait for a query, or, without one, a failure.
        """
        stale = self._stale(query.key, boottime) if query.key else None
        if stale is not None:
            self.counters.stale_responses += len(query.waiting)
            failure, origin, upstream = stale, Origin.STALE, ""
        self.delivery.give(query, failure, now, upstream, origin)

    def _serve_stale(self, queries: list[Query]) -> None:
        """
        Send a stale response, if there is one, to clients that waited for ``STALE_AFTER``; the query stays in flight.
        """
        boottime, now = self._boottime(), self._monotonic()
        for query in queries:
            if query.waiting and (stale := self._stale(query.key, boottime)):
                self.counters.stale_responses += len(query.waiting)
                self.delivery.give(query, stale, now, origin=Origin.STALE)
        self._send_given(boottime)

    def _send_given(self, since: float) -> None:
        self.delivery.send_given(since)
        self._end_drain_if_done()

    def _end_drain_if_done(self) -> None:
        if self._drained is not None and not self.outstanding:
            self._end_drain()

    def _end_drain(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.callback(None)
