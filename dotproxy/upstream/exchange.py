"""
One upstream, as the forwarder sees it: questions in, answers or failures out.

Decides when to dial, which connection a question goes out on, and when a connection is no longer worth
asking.  What a failure means for a query (whom to ask next, when to stop) is the forwarder's decision.

There is one connection for questions.  One that went silent is retired: it gets no more questions, they
are given back to be asked again, a new one is dialled; but what it still answers counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from dotproxy.errors import ConnectionGone, Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.policy.health import Health
from dotproxy.telemetry.events import Events
from dotproxy.upstream.probe import PROBE, PROBE_QUESTION
from dotproxy.upstream.protocol import Answer, DotProtocol, Question, Token

#: A retired connection may still answer what it was asked; after this long it is cut.
RETIREMENT = 4.0

#: A connection heard from this short a while ago is not under suspicion.
RECENTLY = 0.25

#: How long a connection under suspicion has to bring something; a satellite's round trip fits in.
PROBE_TIMEOUT = 1.0


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
    Owns: its connections, the dial under way, and the questions that wait for it.
    Told by: the forwarder (``ask``, ``suspect``), its connections.
    Tells: ``outcomes``, which is set before the first question.
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
    ) -> None:
        self.label = label
        self._endpoint = endpoint
        self._clock = clock
        self._now = now
        self._random_octets = random_octets
        self._jitter = jitter
        self._idle_timeout = idle_timeout
        self._events = events
        self._health = Health()
        self._down_since = 0.0
        self._is_known_down = False
        self._connection: DotProtocol | None = None
        self._standing: set[DotProtocol] = set()
        self._retired: set[DotProtocol] = set()
        self._probed: set[DotProtocol] = set()
        self._waiting: list[Question] = []
        self._dialling: Deferred[Any] | None = None
        self._redial: IDelayedCall | None = None
        self._timers: set[IDelayedCall] = set()
        self._all_closed: Deferred[None] | None = None

    @property
    def is_up(self) -> bool:
        """
        Whether it is to be preferred over upstreams that are not.
        """
        return self._health.is_up

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
        connection = self._connection
        if connection is not None and not self._waiting and connection.room() >= len(questions):
            connection.ask(questions)
        elif self.running:
            self._waiting += questions
            self._flush()
        else:
            self._fail([question[0] for question in questions], Unreachable("connect", "stopped", self.label))

    def suspect(self) -> bool:
        """
        Take note that a question has had no answer for too long; return whether the connection is lively,
        so that it seems to be the question, or its answer, that was lost.

        If it is not, it is asked something easy, and if that brings nothing either, it is retired and its
        questions are given back.
        """
        connection = self._connection
        now = self._now()
        if connection is None or connection in self._probed:
            return False
        if now - connection.last_heard < RECENTLY:
            return True
        if connection.room():
            self._probe(connection)
        else:
            self._retire(connection)
        return False

    def stopService(self) -> Deferred[None]:
        """
        Close every connection; what was asked and not answered has failed.
        """
        super().stopService()
        self._cancel_redial()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._dialling is not None:
            self._dialling.cancel()
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._fail([question[0] for question in waiting], Unreachable("connect", "stopped", self.label))
        self._connection = None
        if not self._standing:
            return succeed(None)
        self._all_closed = all_closed = Deferred[None]()
        for connection in tuple(self._standing):
            connection.close()
        return all_closed

    def connection_answered(self, connection: DotProtocol, answers: list[Answer]) -> None:
        """
        A connection brought answers.
        """
        if not self._health.is_up and connection is self._connection:
            self._note_up(self._health.answered)
        if connection in self._probed:
            self._probed.discard(connection)
            answers = [answer for answer in answers if answer[0] is not PROBE]
        if answers:
            self.outcomes.answered(self, answers)
        if connection in self._retired and not connection.outstanding:
            connection.close()
        elif self._waiting:
            self._flush()

    def connection_lost(self, connection: DotProtocol, tokens: list[Token], error: UpstreamError) -> None:
        """
        A connection ended: of age, of idleness, or under questions.
        """
        self._events.connection_closed(self.label, error.reason, len(tokens))
        error.upstream = self.label
        was_retired = connection in self._retired
        for connections in (self._standing, self._retired, self._probed):
            connections.discard(connection)
        if connection is self._connection:
            self._connection = None
        # What was outstanding on a retired one was given back when it retired.
        asked = [] if was_retired else [token for token in tokens if token is not PROBE]
        # One that had answered shows an upstream that works, and closes as it sees fit (RFC 7766 §6.2.4).
        is_failure = bool(tokens) and not connection.answers
        if is_failure and not was_retired:
            self._note_down(error, silent=True)
        if asked:
            if isinstance(error, ConnectionGone):
                error.made_progress = not is_failure
            self._fail(asked, error)
        if self._waiting:
            self._flush()
        if self._all_closed is not None and not self._standing:
            done, self._all_closed = self._all_closed, None
            done.callback(None)

    def connection_has_room(self, connection: DotProtocol) -> None:
        """
        A connection that took no more takes some again.
        """
        self._flush()

    def _flush(self) -> None:
        """
        Send what waits, as far as there is room; see to it that there will be.
        """
        connection = self._connection
        if connection is None or connection.is_closing:
            self._connection = None
            if self._waiting and self._dialling is None:
                self._dial_when_due(asked=True)
            return
        while self._waiting and (room := connection.room()):
            batch = [question for question in self._waiting[:room] if self.outcomes.is_wanted(question[0])]
            del self._waiting[:room]
            if batch:
                connection.ask(batch)

    def _dial_when_due(self, *, asked: bool) -> None:
        self._cancel_redial()
        if not self.running:
            return
        wait = self._health.wait(self._now(), asked=asked)
        if wait > 0:
            self._redial = self._clock.callLater(wait, self._dial)
        else:
            self._dial()

    def _dial(self) -> None:
        self._redial = None
        began = self._now()
        factory = Factory.forProtocol(self._new_connection)
        factory.noisy = False
        self._dialling = dialling = self._endpoint.connect(factory)
        dialling.addCallbacks(self._connected, self._not_connected, callbackArgs=(began,))
        if dialling.called:
            self._dialling = None

    def _new_connection(self) -> DotProtocol:
        return DotProtocol(
            self,
            clock=self._clock,
            now=self._now,
            random_octets=self._random_octets,
            idle_timeout=self._idle_timeout,
        )

    def _connected(self, connection: DotProtocol, began: float) -> None:
        self._dialling = None
        if connection.is_closing:  # it ended in the instant it stood
            return
        self._connection = connection
        self._standing.add(connection)
        identity = connection.identity
        self._events.upstream_connected(
            self.label,
            connection.peer,
            identity.tls_version,
            identity.verified,
            resumed=identity.resumed,
            seconds=self._now() - began,
        )
        self._note_up(self._health.connected)
        if not self._health.is_up:
            self._probe(connection)
        self._flush()

    def _not_connected(self, failure: Failure) -> None:
        self._dialling = None
        if failure.check(CancelledError):
            return
        error = failure.value
        if not isinstance(error, UpstreamError):
            error = Unreachable("connect", failure.getErrorMessage())
        error.upstream = self.label
        self._note_down(error)
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._fail([question[0] for question in waiting], error)

    def _probe(self, connection: DotProtocol) -> None:
        self._probed.add(connection)
        connection.ask([PROBE_QUESTION])
        self._later(PROBE_TIMEOUT, self._judge_probe, connection)

    def _judge_probe(self, connection: DotProtocol) -> None:
        if connection is self._connection and connection in self._probed:
            self._retire(connection)

    def _retire(self, connection: DotProtocol) -> None:
        """
        Ask a silent connection nothing more, and give its questions back.
        """
        self._connection = None
        self._retired.add(connection)
        error = Timeout("read", f"connected, but silent for {self._now() - connection.last_heard:.1f} s", self.label)
        self._later(RETIREMENT, self._end_retirement, connection, error)
        self._note_down(error, silent=True)
        self._fail([token for token in connection.unanswered() if token is not PROBE], error)

    def _end_retirement(self, connection: DotProtocol, error: UpstreamError) -> None:
        if connection in self._retired:
            connection.abort(error)

    def _note_down(self, error: UpstreamError, *, silent: bool = False) -> None:
        self._health.failed(error, self._now(), self._jitter(), silent=silent)
        if self._health.failures == 1:
            self._down_since = self._now()
        # That one connection was cut is no news yet: a busy server may do that.
        if not self._is_known_down and (self._health.failures > 1 or not isinstance(error, ConnectionGone)):
            self._is_known_down = True
            self._events.upstream_went_down(self.label, error)
        if self._connection is None and self._dialling is None:
            # By itself and without being asked, so that it is known when it works again.
            self._dial_when_due(asked=bool(self._waiting))

    def _note_up(self, note: Callable[[], bool]) -> None:
        failures = self._health.failures
        if note() and self._is_known_down:
            self._is_known_down = False
            self._events.upstream_came_up(self.label, self._now() - self._down_since, failures)

    def _fail(self, tokens: list[Token], error: UpstreamError) -> None:
        is_final = isinstance(error, Unreachable | Untrusted)
        self.outcomes.failed(self, tokens, error, is_final=is_final)

    def _later(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        def due() -> None:
            self._timers.discard(timer)
            call(*args)

        timer = self._clock.callLater(seconds, due)
        self._timers.add(timer)

    def _cancel_redial(self) -> None:
        if self._redial is not None and self._redial.active():
            self._redial.cancel()
        self._redial = None
