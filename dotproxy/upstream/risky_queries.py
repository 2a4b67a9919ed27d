"""
Queries that may end the connection they are sent on, as one upstream treats them.

Decides which queries, and which zones, are isolated from now on, and when connections that end without a reply are
the upstream's fault and not the queries'.  How many connections there are is decided by ``isolated_connections``.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IStreamClientEndpoint

from dotproxy.errors import ConnectionGone, Unreachable, UpstreamError
from dotproxy.forwarding.interfaces import Upstream
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.quarantine import Quarantine, question_key
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.telemetry.events import Events
from dotproxy.upstream.connection import DotConnection, OutgoingQuery, Reply, Token, tokens_of
from dotproxy.upstream.interfaces import UpstreamObserver
from dotproxy.upstream.isolated_connections import IsolatedConnections
from dotproxy.upstream.settings import Runtime
from dotproxy.wire.message import HEADER_SIZE

#: After so many connections in a row that ended without a reply the upstream is probed, once in so many seconds.
UNANSWERED_CONNECTIONS = 3
CHECKED_EVERY = 1.0

#: A connection that received octets within so many seconds shows that the upstream replies.
_ALIVE = 1.0


class RiskyQueriesObserver(Upstream, Protocol):
    """
    What it needs of the upstream whose queries they are.
    """

    label: str

    @property
    def per_connection_limit(self) -> PerConnectionLimit:
        """
        The number of queries that the upstream answers over one connection.
        """

    @property
    def is_up(self) -> bool:
        """
        Whether it has not failed since it last worked.
        """

    @property
    def heard_at(self) -> float | None:
        """
        When the shared connection last received octets; None if there is none, or it is suspect.
        """

    def note_answer(self) -> None:
        """
        Record that the upstream replies.
        """

    def note_down(self, error: UpstreamError, *, silent: bool = False) -> None:
        """
        Record that the upstream failed; ``silent``: there are connections, and they receive nothing.
        """

    def fail_waiting(self, error: UpstreamError) -> None:
        """
        Fail the queries that wait for a connection.
        """

    def fail(self, tokens: list[Token], error: UpstreamError) -> None:
        """
        Report queries that were not sent, because of the upstream.
        """


class RiskyQueries:
    """
    Owns: the quarantine of queries that end connections, and the ``connections`` for such queries.
    Told by: the upstream (``note_replies``, ``note_unanswered``), those connections.
    """

    _query_observer: UpstreamObserver

    def __init__(
        self,
        observer: RiskyQueriesObserver,
        endpoint: IStreamClientEndpoint,
        *,
        runtime: Runtime,
        counters: UpstreamCounters,
        events: Events,
    ) -> None:
        self._observer = observer
        self._now = runtime.now
        self._counters = counters
        self._events = events
        self._unanswered = 0
        self._answered_at = self._checked_at = float("-inf")
        self.label = observer.label
        self.quarantine = Quarantine()
        self.connections = IsolatedConnections(
            self,
            endpoint,
            runtime=runtime,
            counters=counters,
            quota=observer.per_connection_limit,
            may_dial=lambda: observer.is_up,
        )

    def bind(self, observer: UpstreamObserver) -> None:
        """
        Report the fate of queries to ``observer`` from now on, as the upstream does.
        """
        self._query_observer = observer

    @property
    def _is_answering(self) -> bool:
        """
        Whether the upstream has replied to something within the last second.
        """
        heard_at = self._observer.heard_at
        heard_at = self._answered_at if heard_at is None else max(heard_at, self._answered_at)
        return self._now() - heard_at <= _ALIVE

    def note_replies(self, answers: list[Reply]) -> None:
        """
        Remove the queries of these replies from the quarantine, with their zones: they do not end connections.
        """
        self._unanswered = 0
        if self.quarantine.until <= self._now():
            return
        for _, reply in answers:
            end = HEADER_SIZE
            while end < len(reply) and reply[end]:
                end += reply[end] + 1
            if reply[4:6] == b"\0\1":
                self.quarantine.remove(question_key(reply, end + 5))

    def note_unanswered(self, error: UpstreamError) -> None:
        """
        Record a connection that ended with queries outstanding and without a reply; after several, probe the upstream.
        """
        self._unanswered += 1
        now = self._now()
        if not self._observer.is_up:
            self._note_down(error)
        elif self._unanswered >= UNANSWERED_CONNECTIONS and now - self._checked_at >= CHECKED_EVERY:
            self._checked_at = now
            self.connections.check()

    def isolated_connected(self, connection: DotConnection, seconds: float) -> None:
        """
        Called by its connections.
        """
        note_connected(connection, seconds, self.label, self._counters, self._events)

    def isolated_not_connected(self, error: UpstreamError) -> bool:
        """
        Called by its connections.
        """
        self._counters.connect_failures[error.phase] += 1
        if self._observer.heard_at is not None or self._is_answering:
            return False
        self._observer.note_down(error)
        self._observer.fail_waiting(error)
        return True

    def isolated_replies_received(self, answers: list[Reply]) -> None:
        """
        Called by its connections.
        """
        self._observer.note_answer()
        self._answered_at = self._now()
        self.note_replies(answers)
        if answers:
            self._query_observer.replies_received(self._observer, answers)

    def isolated_lost(
        self,
        queries: list[OutgoingQuery],
        error: UpstreamError,
        isolation: Isolation,
        *,
        answers: int,
        is_unusual: bool,
    ) -> None:
        """
        Called by its connections.
        """
        # A refused kind of query says nothing about other queries for the same name.
        if isinstance(error, ConnectionGone) and error.was_alone and not is_unusual:
            _, message, question_end = queries[0]
            question = question_key(message, question_end)
            self.quarantine.add(question, self._now())
            self._events.question_ended_connection(self.label, question)
            if isolation is Isolation.LAST:
                self._observer.per_connection_limit.forget()  # it was the question, and not a limit
        if not answers and isolation < Isolation.KNOWN and not is_unusual:
            self.note_unanswered(error)
        tokens = tokens_of(queries)
        self._query_observer.failed(self._observer, tokens, error, is_final=isolation is Isolation.KNOWN)

    def isolated_check_failed(self, error: UpstreamError) -> None:
        """
        Called by its connections.
        """
        if not self._is_answering:
            self._note_down(error)

    def _note_down(self, error: UpstreamError) -> None:
        self._observer.note_down(error, silent=True)
        # Waiting queries were not sent; the upstream decides how long they may wait.
        self._observer.fail_waiting(Unreachable(error.phase, error.reason, self.label))

    def isolated_fail(self, tokens: list[Token], error: UpstreamError, *, is_final: bool) -> None:
        """
        Called by its connections.
        """
        if is_final:
            self._query_observer.failed(self._observer, tokens, error, is_final=True)
        else:
            self._observer.fail(tokens, error)

    def is_wanted(self, token: Token) -> bool:
        """
        Called by its connections.
        """
        return self._query_observer.is_wanted(token)


def note_connected(
    connection: DotConnection, seconds: float, label: str, counters: UpstreamCounters, events: Events
) -> None:
    """
    Count a verified connection to the upstream of this label, and report it as an event.
    """
    identity = connection.identity
    counters.connections_opened += 1
    (counters.resumed_handshakes if identity.resumed else counters.full_handshakes).add(seconds)
    events.upstream_connected(
        label,
        connection.peer,
        identity.tls_version,
        identity.verified,
        resumed=identity.resumed,
        seconds=seconds,
    )
