"""
One upstream, as the forwarder sees it: queries in, replies or failures out.

Decides when the upstream is dialled, which queries wait for that, and how good it is beside others (its tier).  Over
which connection a query goes is decided by its ``pool``, or by ``isolated_connections`` for queries that may end the
connection they are on; what a failure means for a query (retry, where, when to stop) by the dispatcher.
"""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint

from dotproxy.errors import ConnectionEnd, Unreachable, UpstreamError
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.health import Tier
from dotproxy.policy.latency import MIN_OVERDUE, Latency
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.status import StatusRecord
from dotproxy.upstream.availability import Availability
from dotproxy.upstream.connection import DotConnection, OutgoingQuery, Reply, Token, tokens_of
from dotproxy.upstream.connection_state import RETIRED
from dotproxy.upstream.interfaces import UpstreamObserver
from dotproxy.upstream.pool import Pool
from dotproxy.upstream.risky_queries import RiskyQueries, note_connected
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.slowness import Slowness
from dotproxy.upstream.timers import cancel


class Upstream(Service):
    """
    Owns: the queries that wait for a connection, and the timer of the next dial.
    Told by: the dispatcher (``send``, ``check_liveness``, ``record_latency``, ``record_late``), its pool.
    Tells: its observer, the dispatcher, which is built with its upstreams and calls ``bind`` before the first query.

    ``tier`` is lower for an upstream that is to be preferred; ``latency`` remembers its response times.
    """

    _observer: UpstreamObserver

    def __init__(
        self,
        label: str,
        endpoint: IStreamClientEndpoint,
        settings: UpstreamSettings,
        *,
        runtime: Runtime,
        events: Events,
    ) -> None:
        self.label = label
        self.weight = settings.weight
        self.latency = Latency()
        self.counters = UpstreamCounters()
        self.tier: int = Tier.GOOD
        self._endpoint = endpoint
        self._clock = runtime.clock
        self._now = now = runtime.now
        self._events = events
        self._waiting: list[OutgoingQuery] = []
        self._waiting_since = 0.0
        self._redial: IDelayedCall | None = None
        self._availability = Availability(label, events, now=now, jitter=runtime.jitter)
        self._health = health = self._availability.health
        self.status_record = StatusRecord(health, now=now, tier=lambda: self.tier)
        self._pool = Pool(
            self,
            endpoint,
            runtime=runtime,
            idle_timeout=settings.idle_timeout,
            latency=self.latency,
            counters=self.counters,
        )
        self._risky_queries = RiskyQueries(self, endpoint, runtime=runtime, counters=self.counters, events=events)
        self.quarantine = self._risky_queries.quarantine
        self._isolated = self._risky_queries.connections
        self._slowness = Slowness(health, self.latency, self._pool, now=now, changed=self._update_tier)

    def __repr__(self) -> str:
        tier = Tier(self.tier).name.lower()
        return f"<{type(self).__name__} {self.label}: {tier}, {len(self._waiting)} waiting; {self._pool.summary}>"

    def bind(self, observer: UpstreamObserver) -> None:
        """
        Report the fate of queries to ``observer`` from now on.
        """
        self._observer = observer
        self._risky_queries.bind(observer)

    @property
    def per_connection_limit(self) -> PerConnectionLimit:
        """
        The number of queries that the upstream answers over one connection.
        """
        return self._pool.per_connection_limit

    @property
    def outstanding(self) -> int:
        """
        The number of queries without a reply, waiting ones included.
        """
        return len(self._waiting) + self._pool.outstanding + self._isolated.outstanding

    @property
    def usual_latency(self) -> float | None:
        """
        The median response time in seconds; None before the first reply.
        """
        return self.latency.p50

    def dial(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for a verified connection for other purposes; its outcome does not count for the health.
        """
        return self._endpoint.connect(factory)

    def send(self, queries: list[OutgoingQuery]) -> None:
        """
        Send queries; the observer is told of the fate of each exactly once, later or before this returns.
        """
        if not self._waiting and self._pool.try_send(queries):
            return
        if self.running:
            if not self._waiting:
                self._waiting_since = self._now()
            self._waiting += queries
            self._flush()
        else:
            self.fail(tokens_of(queries), Unreachable("connect", "stopped", self.label))

    def send_isolated(self, queries: list[OutgoingQuery], isolation: Isolation, *, is_background: bool) -> None:
        """
        Send queries over connections of their own; ``is_background``: after the others that wait for these.
        """
        if self._isolated.is_available and self.running:
            self._isolated.send(queries, isolation, is_background=is_background)
            if not self._health.is_up and not self._pool.is_dialling and self._pool.select() is None:
                self._dial_when_due(has_queries=True)
        elif not is_background:
            self.send(queries)
        else:
            error = Unreachable("connect", "no connection of its own is to be had", self.label)
            self._observer.failed(self, tokens_of(queries), error, is_final=True)

    def watch(self, since: float, seconds: float) -> None:
        """
        Probe the connection if it receives nothing between ``since``, when a query was sent, and ``seconds`` from now.
        """
        self._slowness.watch(since, seconds)

    def check_liveness(self, since: float) -> bool:
        """
        Return whether the connection received octets since an overdue query was sent, at ``since``; if not, probe it.
        """
        return self._slowness.check_liveness(since)

    def record_latency(self, seconds: float, answers: int) -> None:
        """
        Record that so many replies came together, the first of them after ``seconds``.
        """
        self._slowness.record_latency(seconds, answers)

    def record_late(self, queries: int) -> None:
        """
        Record so many queries that were overdue, or answered with an error that another upstream may not give.
        """
        self._slowness.record_late(queries)

    def network_moved(self) -> None:
        """
        Drop every connection, and dial again: the machine has another network, or slept.
        """
        self._start_anew("the network has changed", ConnectionEnd.NETWORK)

    def renew(self) -> None:
        """
        Drop every connection, and dial again: the CAs or the client certificate were replaced.
        """
        self.status_record.is_verified = False
        self._start_anew("the CAs or the client certificate were replaced", ConnectionEnd.CREDENTIALS)

    def check(self) -> None:
        """
        Dial, unless there is a connection or a dial under way, to find out whether the upstream works.
        """
        if self.running and self._pool.select() is None and not self._pool.is_dialling:
            cancel(self._redial)
            self._pool.dial()

    def _start_anew(self, why: str, end: ConnectionEnd) -> None:
        self._availability.restart()
        self._isolated.drop_all(why, end)
        self._pool.drop_all(why, end)
        if self.running and (self._waiting or not self._health.is_up):
            cancel(self._redial)
            self._pool.dial()

    def stopService(self) -> Deferred[None]:
        """
        Close every connection, and fail the queries without a reply.
        """
        super().stopService()
        cancel(self._redial)
        stopped = self._pool.stop()
        self.fail_waiting(Unreachable("connect", "stopped", self.label))
        all_closed = Deferred[None]()
        self._isolated.stop(lambda: all_closed.callback(None))
        return stopped.addCallback(lambda _: all_closed)

    @property
    def is_up(self) -> bool:
        """
        Whether it has not failed since it last worked.
        """
        return self._health.is_up

    @property
    def heard_at(self) -> float | None:
        """
        When the shared connection last received octets; None if there is none, or it is suspect.
        """
        return None if self._pool.select() is None or self._pool.is_suspect else self._pool.last_heard

    def connected(self, connection: DotConnection, seconds: float) -> None:
        """
        Called by the pool.
        """
        self.status_record.note_verified(connection.identity.not_after)
        note_connected(connection, seconds, self.label, self.counters, self._events)
        self._note_recovery(came_up=self._availability.note_connected())
        if (not self._health.is_up or self._health.is_slow) and not self._waiting:
            self._pool.probe(connection)  # queries that wait show the same
        self._update_tier()
        self._flush()

    def not_connected(self, error: UpstreamError) -> None:
        """
        Called by the pool.
        """
        self.counters.connect_failures[error.phase] += 1
        self.note_down(error)
        self.fail_waiting(error)

    def replies_received(self, connection: DotConnection, answers: list[Reply], probed_for: float | None) -> None:
        """
        Called by the pool.
        """
        if not self._health.is_up and connection.state is not RETIRED:
            self.note_answer()
        self._risky_queries.note_replies(answers)
        if probed_for is not None:
            if probed_for < MIN_OVERDUE:
                self._health.trial_in_time(self._now())
            self._update_tier()
        if answers:
            self._observer.replies_received(self, answers)
        if self._waiting:
            self._flush()

    def lost(self, tokens: list[Token], error: UpstreamError, *, is_unanswered: bool) -> None:
        """
        Called by the pool.
        """
        self._events.connection_closed(self.label, error.reason, len(tokens))
        error.upstream = self.label
        if is_unanswered:
            self._risky_queries.note_unanswered(error)
        if tokens:
            if self.running and self._health.is_up and self._pool.select() is None:
                self._pool.dial()  # for the next query
            self.fail(tokens, error)
        if self._waiting:
            self._flush()

    def retired(self, tokens: list[Token], error: UpstreamError, *, was_silent: bool) -> None:
        """
        Called by the pool.
        """
        if was_silent:
            self.note_down(error, silent=True)
        if tokens:
            self.fail(tokens, error)

    def limit_changed(self, limit: int | None) -> None:
        """
        Called by the pool.
        """
        self._events.query_limit_changed(self.label, limit)

    def has_room(self) -> None:
        """
        Called by the pool.
        """
        self._flush()

    def pool_changed(self) -> None:
        """
        Called by the pool.
        """
        self._update_tier()

    def fail_waiting(self, error: UpstreamError) -> None:
        """
        Fail the queries that were not sent.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.fail(tokens_of(waiting), error)
        self._isolated.fail_waiting(error)

    def _flush(self) -> None:
        """
        Send the queries that wait, as far as there is room; dial if there is no connection.
        """
        while self._waiting and (room := self._pool.room()):
            wanted = self._observer.is_wanted
            batch = [(token, query, end) for token, query, end in self._waiting[:room] if wanted(token)]
            del self._waiting[:room]
            connection = self._pool.select()
            if batch and connection is not None:
                self.counters.wait_seconds.add(self._now() - self._waiting_since, len(batch))
                connection.send(batch)
        if self._waiting and self._pool.select() is None:
            if self._pool.is_dialling:
                self._pool.dial(len(self._waiting))
            else:
                self._dial_when_due(has_queries=True)

    def _dial_when_due(self, *, has_queries: bool) -> None:
        cancel(self._redial)
        if not self.running:
            return
        wait = self._health.seconds_until_redial(self._now(), has_pending=has_queries)
        if wait > 0:
            self._redial = self._clock.callLater(wait, self._pool.dial)
            if has_queries and self._health.error is not None and self._health.is_lasting:
                self.fail_waiting(self._health.error)
        else:
            self._pool.dial(len(self._waiting))

    def _update_tier(self) -> None:
        if not self._health.is_up:
            self.tier = Tier.DOWN
        elif self._health.is_slow or self._pool.has_slow_dial or self._pool.is_suspect:
            self.tier = Tier.SLOW
        else:
            self.tier = Tier.GOOD

    def note_down(self, error: UpstreamError, *, silent: bool = False) -> None:
        """
        Record a failed dial, or that connections are ``silent``; probe the connection, or dial when it is due.
        """
        if self._availability.note_failure(error, silent=silent):
            self.status_record.failing_since = self._now()
        self._update_tier()
        if self._pool.select() is not None:
            self._pool.check_liveness()
        elif not self._pool.is_dialling:
            # Without a query, too, so that queries find it up when it works again.
            self._dial_when_due(has_queries=bool(self._waiting) or self._isolated.is_waiting)

    def learn_down(self, error: UpstreamError) -> None:
        """
        Record that the upstream has failed another worker: it need not be dialled here to learn the same.
        """
        if self._pool.select() is None and not self._pool.is_dialling:
            if self._availability.learn_failure(error):
                self.status_record.failing_since = self._now()
            self._update_tier()
            self._dial_when_due(has_queries=bool(self._waiting) or self._isolated.is_waiting)

    def learn_up(self) -> None:
        """
        Dial at once: the upstream works for another worker.
        """
        if not self._health.is_up and self.running and self._pool.select() is None:
            cancel(self._redial)
            self._pool.dial(len(self._waiting))

    def note_answer(self) -> None:
        """
        Record that it replies.
        """
        self._note_recovery(came_up=self._availability.note_reply())

    def _note_recovery(self, *, came_up: bool) -> None:
        self._update_tier()
        if came_up:
            self._isolated.resume()

    def fail(self, tokens: list[Token], error: UpstreamError) -> None:
        """
        Report that queries failed because of the upstream.
        """
        may_wait = self.running and self._availability.may_be_back_soon()
        is_final = error.is_lasting or (isinstance(error, Unreachable) and not may_wait)
        self._observer.failed(self, tokens, error, is_final=is_final)
