"""
One upstream, as the forwarder sees it: questions in, answers or failures out.

Decides whether the upstream is up, when it is dialled again, and which questions it hangs up at.  Over which connection
a query goes is the decision of its ``pool``, or of its ``suspects`` for those that are kept apart; what a failure means
for a query (whom to ask next, when to stop) is the forwarder's.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint

from dotproxy.errors import ConnectionEnd, ConnectionGone, Unreachable, UpstreamError
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.health import Health, Tier
from dotproxy.policy.latency import OVERDUE_FLOOR, Latency
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.status import StatusRecord
from dotproxy.upstream.connection import Answer, DotConnection, Question, Token
from dotproxy.upstream.connection_state import RETIRED
from dotproxy.upstream.interfaces import UpstreamObserver
from dotproxy.upstream.pool import Pool
from dotproxy.upstream.risky_queries import RiskyQueries, note_connected
from dotproxy.upstream.slowness import Slowness

#: What another worker found down is dialled so much later, so that it is the other that goes on dialling.
LEARNED_LATER = 0.5


class Upstream(Service):
    """
    Owns: the questions that wait for a connection, and what is known of the upstream's health.
    Told by: the forwarder (``ask``, ``check_liveness``, ``record_latency``, ``record_late``), its pool.
    Tells: ``observer``, which is set before the first question.

    ``tier`` says whether it is to be preferred over others; ``latency`` what its answers take; ``weight`` its share.
    """

    observer: UpstreamObserver

    def __init__(
        self,
        label: str,
        endpoint: IStreamClientEndpoint,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        random_octets: Callable[[int], bytes],
        jitter: Callable[[], float],
        idle_timeout: float,
        events: Events,
        weight: int = 1,
    ) -> None:
        self.label = label
        self.weight = weight
        self.latency = Latency()
        self.counters = UpstreamCounters()
        self.tier: int = Tier.GOOD
        self._endpoint = endpoint
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self._events = events
        self._health = Health()
        self.status_record = StatusRecord(self._health, now=now, tier=lambda: self.tier)
        self._down_since = 0.0
        self._is_known_down = False
        self._waiting: list[Question] = []
        self._waiting_since = 0.0
        self._redial: IDelayedCall | None = None
        self._pool = Pool(
            self,
            endpoint,
            clock=clock,
            now=now,
            random_octets=random_octets,
            jitter=jitter,
            idle_timeout=idle_timeout,
            latency=self.latency,
            counters=self.counters,
        )
        self._risky_queries = RiskyQueries(
            self,
            endpoint,
            clock=clock,
            now=now,
            random_octets=random_octets,
            counters=self.counters,
            events=events,
        )
        self.quarantine = self._risky_queries.quarantine
        slowness = Slowness(self._health, self.latency, self._pool, now=now, changed=self._judge_tier)
        self.watch, self.check_liveness = slowness.watch, slowness.check_liveness
        self.record_latency, self.record_late = slowness.record_latency, slowness.record_late

    def __repr__(self) -> str:
        tier = Tier(self.tier).name.lower()
        return f"<{type(self).__name__} {self.label}: {tier}, {len(self._waiting)} waiting; {self._pool.summary}>"

    @property
    def per_connection_limit(self) -> PerConnectionLimit:
        """
        How many queries it answers over one connection.
        """
        return self._pool.per_connection_limit

    @property
    def outstanding(self) -> int:
        """
        How many questions it was asked and has not answered.
        """
        return len(self._waiting) + self._pool.outstanding + self._risky_queries.outstanding

    @property
    def usual_latency(self) -> float | None:
        """
        What its answers usually take, in seconds.
        """
        return self.latency.p50

    def dial(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for a verified connection for other purposes; what it tells of the upstream is not noted.
        """
        return self._endpoint.connect(factory)

    def send(self, questions: list[Question]) -> None:
        """
        Ask; ``observer`` hears of each question exactly once, later or before this returns.
        """
        if not self._waiting and self._pool.try_send(questions):
            return
        if self.running:
            if not self._waiting:
                self._waiting_since = self._now()
            self._waiting += questions
            self._flush()
        else:
            self.fail([question[0] for question in questions], Unreachable("connect", "stopped", self.label))

    def send_isolated(self, questions: list[Question], isolation: Isolation, *, is_background: bool) -> None:
        """
        As ``ask``, on connections of their own; ``is_background``: after all those that are ordinary.
        """
        if self._risky_queries.is_available and self.running:
            self._risky_queries.send(questions, isolation, is_background=is_background)
            if not self._health.is_up and not self._pool.is_dialling and self._pool.select() is None:
                self._dial_when_due(asked=True)
        elif not is_background:
            self.send(questions)
        else:
            error = Unreachable("connect", "no connection of its own is to be had", self.label)
            self.observer.failed(self, [question[0] for question in questions], error, is_final=True)

    def network_moved(self) -> None:
        """
        Take note that the machine has another network, or slept: connections are worth nothing, failures are history.
        """
        self._start_anew("the network has changed", ConnectionEnd.NETWORK)

    def renew(self) -> None:
        """
        Take note that the CAs or the client certificate were replaced: what was verified before counts no more.
        """
        self.status_record.is_verified = False
        self._start_anew("the CAs or the client certificate were replaced", ConnectionEnd.CREDENTIALS)

    def check(self) -> None:
        """
        Dial, unless there is a connection or a dial under way, so that it is known whether the upstream works.
        """
        if self.running and self._pool.select() is None and not self._pool.is_dialling:
            self._cancel_redial()
            self._pool.dial()

    def _start_anew(self, why: str, end: ConnectionEnd) -> None:
        self._down_since = self._now()
        self._risky_queries.drop_all(why, end)
        self._pool.drop_all(why, end)
        if self.running and (self._waiting or not self._health.is_up):
            self._cancel_redial()
            self._pool.dial()

    def stopService(self) -> Deferred[None]:
        """
        Close every connection; what was asked and not answered has failed.
        """
        super().stopService()
        self._cancel_redial()
        stopped = self._pool.stop()
        self.fail_waiting(Unreachable("connect", "stopped", self.label))
        all_closed: Deferred[None] = Deferred()
        self._risky_queries.stop(lambda: all_closed.callback(None))
        return stopped.addCallback(lambda _: all_closed)

    @property
    def is_up(self) -> bool:
        """
        Whether nothing has failed since it last worked.
        """
        return self._health.is_up

    @property
    def heard_at(self) -> float | None:
        """
        When the connection that all share brought something; None if there is none, or it is under suspicion.
        """
        return None if self._pool.select() is None or self._pool.is_suspect else self._pool.last_heard

    def connected(self, connection: DotConnection, seconds: float) -> None:
        """
        Called by the pool.
        """
        self.status_record.note_verified(connection.identity.not_after)
        note_connected(connection, seconds, self.label, self.counters, self._events)
        self._note_up(self._health.connected)
        if (not self._health.is_up or self._health.is_slow) and not self._waiting:
            self._pool.probe(connection)  # what waits for it does as well
        self._judge_tier()
        self._flush()

    def not_connected(self, error: UpstreamError) -> None:
        """
        Called by the pool.
        """
        self.counters.connect_failures[error.phase] += 1
        self.note_down(error)
        self.fail_waiting(error)

    def replies_received(self, connection: DotConnection, answers: list[Answer], probed_for: float | None) -> None:
        """
        Called by the pool.
        """
        if not self._health.is_up and connection.state is not RETIRED:
            self.note_answer()
        self._risky_queries.note_replies(answers)
        if probed_for is not None:
            if probed_for < OVERDUE_FLOOR:
                self._health.tried_in_time(self._now())
            self._judge_tier()
        if answers:
            self.observer.replies_received(self, answers)
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
                self._pool.dial()  # for what comes next
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
        self._judge_tier()

    def fail_waiting(self, error: UpstreamError) -> None:
        """
        Fail whatever was not sent.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.fail([question[0] for question in waiting], error)
        self._risky_queries.fail_waiting(error)

    def _flush(self) -> None:
        """
        Send what waits, as far as there is room; see to it that there will be.
        """
        while self._waiting and (room := self._pool.room()):
            batch = [question for question in self._waiting[:room] if self.observer.is_wanted(question[0])]
            del self._waiting[:room]
            connection = self._pool.select()
            if batch and connection is not None:
                self.counters.wait_seconds.add(self._now() - self._waiting_since, len(batch))
                connection.send(batch)
        if self._waiting and self._pool.select() is None:
            if self._pool.is_dialling:
                self._pool.dial(len(self._waiting))
            else:
                self._dial_when_due(asked=True)

    def _dial_when_due(self, *, asked: bool) -> None:
        self._cancel_redial()
        if not self.running:
            return
        wait = self._health.wait(self._now(), asked=asked)
        if wait > 0:
            self._redial = self._clock.callLater(wait, self._pool.dial)
            if asked and self._health.error is not None and self._health.is_lasting:
                self.fail_waiting(self._health.error)
        else:
            self._pool.dial(len(self._waiting))

    def _judge_tier(self) -> None:
        if not self._health.is_up:
            self.tier = Tier.DOWN
        elif self._health.is_slow or self._pool.has_slow_dial or self._pool.is_suspect:
            self.tier = Tier.SLOW
        else:
            self.tier = Tier.GOOD

    def note_down(self, error: UpstreamError, *, silent: bool = False) -> None:
        """
        Take note of a failure of the upstream.
        """
        self._events.dial_failed(self.label, error)
        self._health.failed(error, self._now(), self._jitter(), silent=silent)
        if self._health.failures == 1:
            self._down_since = self.status_record.failing_since = self._now()
        self._judge_tier()
        if not self._is_known_down and (self._health.failures > 1 or not isinstance(error, ConnectionGone)):
            self._is_known_down = True
            self._events.upstream_went_down(self.label, error)
        if self._pool.select() is not None:
            self._pool.check_liveness()
        elif not self._pool.is_dialling:
            # By itself and without being asked, so that it is known when it works again.
            self._dial_when_due(asked=bool(self._waiting) or self._risky_queries.is_waiting)

    def learn_down(self, error: UpstreamError) -> None:
        """
        Take note that the upstream has failed another worker: it need not be dialled to learn the same.
        """
        if self._pool.select() is None and not self._pool.is_dialling:
            if self._health.is_up:
                self._down_since = self.status_record.failing_since = self._now()
            self._health.failed(error, self._now() + LEARNED_LATER, self._jitter())
            self._judge_tier()
            self._dial_when_due(asked=bool(self._waiting) or self._risky_queries.is_waiting)

    def learn_up(self) -> None:
        """
        Take note that the upstream works for another worker: it is dialled at once.
        """
        if not self._health.is_up and self.running and self._pool.select() is None:
            self._cancel_redial()
            self._pool.dial(len(self._waiting))

    def note_answer(self) -> None:
        """
        Take note that it answers.
        """
        self._note_up(self._health.answered)

    def _note_up(self, note: Callable[[], bool]) -> None:
        failures = self._health.failures
        came_up = note()
        self._judge_tier()
        if came_up and self._is_known_down:
            self._is_known_down = False
            self._events.upstream_came_up(self.label, self._now() - self._down_since, failures)
        if came_up:
            self._risky_queries.resume()

    def fail(self, tokens: list[Token], error: UpstreamError) -> None:
        """
        Tell that queries failed because of the upstream.
        """
        may_wait = self.running and self._health.may_be_back_soon(self._now(), self._down_since)
        is_final = error.is_lasting or (isinstance(error, Unreachable) and not may_wait)
        self.observer.failed(self, tokens, error, is_final=is_final)

    def _cancel_redial(self) -> None:
        if self._redial is not None and self._redial.active():
            self._redial.cancel()
        self._redial = None
