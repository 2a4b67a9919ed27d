"""
One upstream, as the forwarder sees it: questions in, answers or failures out.

Decides whether the upstream is up, and when it is dialled again.  Over which connection a question goes is its
``pool``'s decision; what a failure means for a query (whom to ask next, when to stop) is the forwarder's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)

from dotproxy.errors import ConnectionGone, Unreachable, Untrusted, UpstreamError
from dotproxy.policy.health import Health, Tier
from dotproxy.policy.latency import OVERDUE_FLOOR, Latency
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.telemetry.events import Events
from dotproxy.upstream.pool import Pool
from dotproxy.upstream.protocol import Answer, DotProtocol, Question, Token

#: A connection heard from this short a while ago is not under suspicion.
RECENTLY = 0.25


class Outcomes(Protocol):
    """
    Who is told what became of questions.
    """

    def answered(self, upstream: Upstream, answers: list[Answer]) -> None:
        """
        These were answered, by messages that match their questions.
        """

    def failed(self, upstream: Upstream, tokens: list[Token], error: UpstreamError, *, is_final: bool) -> None:
        """
        These were not; ``is_final``: asking this upstream again would be no use to them.
        """

    def is_wanted(self, token: Token) -> bool:
        """
        Whether anybody still waits for the answer.
        """


class Upstream(Service):
    """
    Owns: the questions that wait for a connection, and what is known of the upstream's health.
    Told by: the forwarder (``ask``, ``suspect``, ``took``, ``was_of_no_use``), its pool.
    Tells: ``outcomes``, which is set before the first question.

    ``tier`` says whether it is to be preferred over others; ``latency`` what its answers take; ``weight`` its share.
    """

    outcomes: Outcomes

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
        self._down_since = 0.0
        self._is_known_down = False
        self._is_watching = False
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

    @property
    def outstanding(self) -> int:
        """
        How many questions it was asked and has not answered.
        """
        return len(self._waiting) + self._pool.outstanding

    @property
    def usual_latency(self) -> float | None:
        """
        What its answers usually take, in seconds.
        """
        return self.latency.p50

    def dial(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for a verified connection for purposes of its own; what it tells of the upstream is not
        taken note of.
        """
        return self._endpoint.connect(factory)

    def ask(self, questions: list[Question]) -> None:
        """
        Ask; ``outcomes`` hears of each question exactly once, later or before this returns.
        """
        connection = self._pool.current
        if connection is not None and not self._waiting and self._pool.room() >= len(questions):
            connection.ask(questions)
        elif self.running:
            if not self._waiting:
                self._waiting_since = self._now()
            self._waiting += questions
            self._flush()
        else:
            self._fail([question[0] for question in questions], Unreachable("connect", "stopped", self.label))

    def suspect(self, since: float) -> bool:
        """
        Take note that a question, asked at ``since``, has had no answer for too long; return whether the connection is
        lively, so that it seems to be the question, or its answer, that was lost.

        If it is not, it is asked something easy, and if that brings nothing either, it is replaced and its
        questions are given back.
        """
        self._pool.give_up_silent(since)
        connection = self._pool.current
        if connection is None or self._pool.is_suspect:
            return False
        if self._pool.last_heard > since and self._now() - self._pool.last_heard < RECENTLY:
            return True
        self._pool.suspect()
        return False

    def watch(self, since: float, seconds: float) -> None:
        """
        Take note that a question asked at ``since`` is slow: if nothing at all is heard for so many seconds more, the
        connection is under suspicion.
        """
        if not self._is_watching:
            self._is_watching = True
            self._pool.timers.later(seconds, self._check, since)

    def took(self, seconds: float, answers: int) -> None:
        """
        Take note that so many answers came together, and the first took so long.
        """
        if seconds <= self.latency.overdue_after(seconds):
            self._health.was_in_time(answers)
        self.latency.note(seconds)
        self._pool.share(seconds)

    def was_of_no_use(self, questions: int) -> None:
        """
        Take note that so many questions were overdue, or answered with an error where others may know better.
        """
        for _ in range(questions):
            if wait := self._health.was_late(self._now()):
                self._pool.timers.later(wait, self._try_slow)
                self._judge_tier()

    def network_moved(self) -> None:
        """
        Take note that the machine has another network, or slept: connections are worth nothing, failures are history.
        """
        self._down_since = self._now()
        self._pool.drop_all("the network has changed")
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
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._fail([question[0] for question in waiting], Unreachable("connect", "stopped", self.label))
        return stopped

    def connected(self, connection: DotProtocol, seconds: float) -> None:
        """
        Called by the pool.
        """
        identity = connection.identity
        self.counters.opened += 1
        (self.counters.resumed if identity.resumed else self.counters.full).add(seconds)
        self._events.upstream_connected(
            self.label,
            connection.peer,
            identity.tls_version,
            identity.verified,
            resumed=identity.resumed,
            seconds=seconds,
        )
        self._note_up(self._health.connected)
        if (not self._health.is_up or self._health.is_slow) and not self._waiting:
            self._pool.probe(connection)  # what waits for it does as well
        self._judge_tier()
        self._flush()

    def not_connected(self, error: UpstreamError) -> None:
        """
        Called by the pool.
        """
        self.counters.not_connected[error.phase] += 1
        self._note_down(error)
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._fail([question[0] for question in waiting], error)

    def answered(self, connection: DotProtocol, answers: list[Answer], probed_for: float | None) -> None:
        """
        Called by the pool.
        """
        if not self._health.is_up and connection is self._pool.current:
            self._note_up(self._health.answered)
        if probed_for is not None:
            if probed_for < OVERDUE_FLOOR:
                self._health.tried_in_time(self._now())
            self._judge_tier()
        if answers:
            self.outcomes.answered(self, answers)
        if self._waiting:
            self._flush()

    def lost(self, tokens: list[Token], error: UpstreamError, *, is_failure: bool) -> None:
        """
        Called by the pool.
        """
        self._events.connection_closed(self.label, error.reason, len(tokens))
        error.upstream = self.label
        if is_failure:
            self._note_down(error, silent=True)
        if tokens:
            self._fail(tokens, error)
        if self._waiting:
            self._flush()

    def retired(self, tokens: list[Token], error: UpstreamError, *, was_silent: bool) -> None:
        """
        Called by the pool.
        """
        if was_silent:
            self._note_down(error, silent=True)
        if tokens:
            self._fail(tokens, error)

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

    def _flush(self) -> None:
        """
        Send what waits, as far as there is room; see to it that there will be.
        """
        while self._waiting and (room := self._pool.room()):
            batch = [question for question in self._waiting[:room] if self.outcomes.is_wanted(question[0])]
            del self._waiting[:room]
            if batch and self._pool.current is not None:
                self.counters.waited.add(self._now() - self._waiting_since, len(batch))
                self._pool.current.ask(batch)
        if self._waiting and self._pool.current is None:
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
        else:
            self._pool.dial(len(self._waiting))

    def _check(self, since: float) -> None:
        self._is_watching = False
        connection = self._pool.current
        if connection is not None and connection.outstanding and self._pool.last_heard <= since:
            self._pool.suspect()

    def _try_slow(self) -> None:
        """
        Find out whether it still is slow.
        """
        if self._pool.current is None:
            if self._health.is_up:
                self._pool.dial()
        elif self._pool.current.room() and not self._pool.is_suspect:
            self._pool.probe(self._pool.current)
        self._pool.timers.later(2 * OVERDUE_FLOOR, self._judge_slow)

    def _judge_slow(self) -> None:
        if self._health.is_slow:
            self._pool.timers.later(self._health.still_slow(self._now()), self._try_slow)

    def _judge_tier(self) -> None:
        if not self._health.is_up:
            self.tier = Tier.DOWN
        elif self._health.is_slow or self._pool.dial_is_slow or self._pool.is_suspect:
            self.tier = Tier.SLOW
        else:
            self.tier = Tier.GOOD

    def _note_down(self, error: UpstreamError, *, silent: bool = False) -> None:
        self._health.failed(error, self._now(), self._jitter(), silent=silent)
        if self._health.failures == 1:
            self._down_since = self._now()
        self._judge_tier()
        # That one connection was cut is no news yet: a busy server may do that.
        if not self._is_known_down and (self._health.failures > 1 or not isinstance(error, ConnectionGone)):
            self._is_known_down = True
            self._events.upstream_went_down(self.label, error)
        if self._pool.current is None and not self._pool.is_dialling:
            # By itself and without being asked, so that it is known when it works again.
            self._dial_when_due(asked=bool(self._waiting))

    def _note_up(self, note: Callable[[], bool]) -> None:
        failures = self._health.failures
        came_up = note()
        self._judge_tier()
        if came_up and self._is_known_down:
            self._is_known_down = False
            self._events.upstream_came_up(self.label, self._now() - self._down_since, failures)

    def _fail(self, tokens: list[Token], error: UpstreamError) -> None:
        may_wait = self.running and self._health.may_be_back_soon(self._now(), self._down_since)
        is_final = isinstance(error, Untrusted) or (isinstance(error, Unreachable) and not may_wait)
        self.outcomes.failed(self, tokens, error, is_final=is_final)

    def _cancel_redial(self) -> None:
        if self._redial is not None and self._redial.active():
            self._redial.cancel()
        self._redial = None
