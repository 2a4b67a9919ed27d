"""
Isolated connections, for queries that may end the connection they are sent on.

Decides how many there are, which queries go over which of them, and which queries the end of one is blamed on.  Whether
a query is isolated, and what becomes of one that ended its connection, is its observer's decision.

A query that was outstanding on a connection that ended is sent again here: alone, or, if there were many, in a few
groups, so that the query that ended the connection does not end it for all others again.  A connection that has
replied serves the next group, one group at a time.  The last attempt at a query goes over a connection that has replied
before, so that a connection that was bad from the start is not blamed on the query.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IStreamClientEndpoint

from dotproxy.errors import ConnectionEnd, ConnectionGone, Timeout, Unreachable, UpstreamError
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.rate_limit import RateLimit
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.upstream.connection import DotConnection, OutgoingQuery, Reply, Token, tokens_of
from dotproxy.upstream.connection_uses import ConnectionUses, Phase
from dotproxy.upstream.dialer import Dialer
from dotproxy.upstream.health_probe import PROBE, PROBE_QUERY
from dotproxy.upstream.interfaces import IsolationObserver
from dotproxy.upstream.query_groups import QueryGroup, grouped, joined
from dotproxy.upstream.settings import Runtime
from dotproxy.upstream.timers import Timers

#: The most connections, dials included, and the most of them for background queries: some servers accept ten in all.
MAX_CONNECTIONS = 32
MAX_BACKGROUND = 2

#: The most connections a second that are opened for background queries, and the most at once.
BACKGROUND_RATE = 20.0

#: The most groups of background queries that wait; more fail at once.
MAX_WAITING = 200

#: An unused connection is closed after so many seconds.
IDLE_TIMEOUT = 1.0

#: Seconds until a connection without all replies to its group, or to the probe before it, is given up.
GROUP_TIMEOUT = 4.0
PROBE_TIMEOUT = 1.0

#: Seconds after the first reply in which nothing is sent: some servers close the connection then.
SETTLING = 0.02

#: Seconds without another dial after one failed while other connections worked.
UNAVAILABLE_FOR = 5.0

#: Seconds before the next dial after connections without a reply, doubling from the first to the last.
PAUSE_FIRST, PAUSE_LAST = 0.05, 1.0


class IsolatedConnections:
    """
    Owns: the groups that wait, the connections, and the dials for them.
    Told by: the upstream (``send``, ``check``), its connections.

    ``may_dial`` returns whether the upstream is up; ``resume`` is called when it is up again.
    """

    def __init__(
        self,
        observer: IsolationObserver,
        endpoint: IStreamClientEndpoint,
        *,
        runtime: Runtime,
        counters: UpstreamCounters,
        quota: PerConnectionLimit,
        may_dial: Callable[[], bool],
    ) -> None:
        self._observer = observer
        self._runtime = runtime
        self._now = runtime.now
        self._counters = counters
        self._quota = quota
        self._may_dial = may_dial
        self._waiting: deque[QueryGroup] = deque()
        self._background: deque[QueryGroup] = deque()
        self._uses = ConnectionUses()
        self._background_limit = RateLimit(BACKGROUND_RATE, runtime.now())
        self._most = MAX_CONNECTIONS
        self._most_until = self._unavailable_until = self._paused_until = float("-inf")
        self._pause = 0.0
        self._is_stopped = self._is_timer_set = False
        self._all_closed: Callable[[], None] | None = None
        self._timers = Timers(runtime.clock)
        self._dialer = Dialer(
            endpoint,
            clock=runtime.clock,
            now=runtime.now,
            build=self._new_connection,
            connected=self._connected,
            failed=self._not_connected,
            slow=lambda: None,
        )

    def __repr__(self) -> str:
        waiting = len(self._waiting) + len(self._background)
        return (
            f"<{type(self).__name__} waiting={waiting} busy={len(self._uses.in_phase(Phase.BUSY))}"
            f" proving={len(self._uses.in_phase(Phase.PROVING))} idle={len(self._uses.in_phase(Phase.IDLE))}"
            f" dials={len(self._dialer)}>"
        )

    @property
    def is_available(self) -> bool:
        """
        Whether the upstream accepts connections beside the shared one, as far as is known.
        """
        return self._now() >= self._unavailable_until

    @property
    def is_waiting(self) -> bool:
        """
        Whether there are queries that were not sent yet.
        """
        return bool(self._waiting or self._background)

    @property
    def outstanding(self) -> int:
        """
        The number of queries without a reply.
        """
        unsent = (
            *self._waiting,
            *self._background,
            *self._uses.groups(Phase.PROVING),
            *self._uses.groups(Phase.SETTLING),
        )
        waiting = sum(len(group.queries) for group in unsent)
        return waiting + sum(connection.outstanding for connection in self._uses.in_phase(Phase.BUSY))

    def send(self, queries: list[OutgoingQuery], isolation: Isolation, *, is_background: bool = False) -> None:
        """
        Send queries, each alone, or in a few groups if they are many and it is not their last attempt.
        """
        groups = grouped(queries, isolation, is_background=is_background)
        if is_background:
            room = max(0, MAX_WAITING - len(self._background))
            self._background += groups[:room]
            if over := [token for group in groups[room:] for token in tokens_of(group.queries)]:
                error = ConnectionGone("read", "too many queries of a kind that ends connections", self._observer.label)
                self._observer.isolated_fail(over, error, is_final=True)
        else:
            self._waiting += groups
        self._assign()

    def check(self) -> None:
        """
        Send a probe, unless that is under way, to find out whether the upstream replies at all.
        """
        if all(group.queries for group in (*self._waiting, *self._uses.groups(Phase.PROVING))):
            self._waiting.appendleft(QueryGroup([], Isolation.LAST))
            self._assign()

    def resume(self) -> None:
        """
        Dial for the queries that wait: the upstream is up again.
        """
        if self.is_waiting:
            self._assign()

    def fail_waiting(self, error: UpstreamError) -> None:
        """
        Fail the queries that were not sent: the upstream cannot be reached.
        """
        groups = [*self._waiting, *self._background]
        self._waiting.clear()
        self._background.clear()
        if tokens := [token for group in groups for token in tokens_of(group.queries)]:
            self._observer.isolated_fail(tokens, error, is_final=False)

    def drop_all(self, why: str, end: ConnectionEnd) -> None:
        """
        Cut every connection and cancel every dial; queries that were sent fail, those that wait go on waiting.  ``end``
        is the reason that is counted.
        """
        self._dialer.cancel_all()
        self._take_back_unsent()
        error = Timeout("read", why, self._observer.label)
        error.code = end
        for connection in self._uses:
            connection.abort(error)

    def stop(self, done: Callable[[], None]) -> None:
        """
        Close every connection, and fail the queries that wait; call ``done`` when all connections are gone.
        """
        self._is_stopped = True
        self._timers.stop()
        self._dialer.cancel_all()
        self._take_back_unsent()
        self.fail_waiting(Unreachable("connect", "stopped", self._observer.label))
        if not self._uses:
            done()
            return
        self._all_closed = done
        for connection in self._uses:
            connection.close(ConnectionEnd.STOPPED)

    def replies_received(self, connection: DotConnection, answers: list[Reply]) -> None:
        """
        Called by a connection.
        """
        self._pause = 0.0
        use = self._uses[connection]
        if use.phase is Phase.PROVING:
            self._uses.set(connection, Phase.ENDING)
        self._observer.isolated_replies_received([(token, reply) for token, reply in answers if token is not PROBE])
        if connection.outstanding:
            return
        self._timers.forget(connection)
        self._uses.set(connection, Phase.ENDING)
        limit = self._quota.limit
        if limit is not None and connection.queries_sent >= limit:
            connection.close(ConnectionEnd.REPLACED)
        elif connection.answers == 1:
            self._uses.set(connection, Phase.SETTLING, use.group if use.phase is Phase.PROVING else None)
            self._timers.later(SETTLING, self._settled, connection)
        elif connection.is_open and not self._is_stopped:
            self._uses.set(connection, Phase.IDLE)
        self._assign()

    def connection_lost(
        self, connection: DotConnection, tokens: list[Token], error: UpstreamError, *, was_retired: bool = False
    ) -> None:
        """
        Called by a connection.
        """
        error.upstream = self._observer.label
        self._timers.forget(connection)
        phase, group = self._uses.remove(connection)
        self._counters.count_closed(connection.ended_for, error.code)
        was_sent = group if phase is Phase.BUSY else None
        if not connection.ended_for and (not tokens or (was_sent is not None and len(was_sent.queries) > 1)):
            self._quota.ended(connection.answers)
        if group is not None and was_sent is None:
            self._not_proved(connection, group, error)
        elif group is not None and tokens:
            wanted = set(tokens)
            if isinstance(error, ConnectionGone):
                error.was_alone = len(group.queries) == 1 and not connection.ended_for
            lost = [(token, message, end) for token, message, end in group.queries if token in wanted]
            self._observer.isolated_lost(
                lost, error, group.isolation, answers=connection.answers, is_unusual=group.is_unusual
            )
        if self._all_closed is not None and not self._uses:
            done, self._all_closed = self._all_closed, None
            done()
        self._assign()

    def connection_has_room(self, connection: DotConnection) -> None:
        """
        Do nothing: no group is large enough to fill a connection.
        """

    def _take_back_unsent(self) -> None:
        for phase in (Phase.PROVING, Phase.SETTLING):
            self._waiting += self._uses.groups(phase)
            for connection in self._uses.in_phase(phase):
                self._uses.set(connection, Phase.ENDING)

    def _not_proved(self, connection: DotConnection, group: QueryGroup, error: UpstreamError) -> None:
        """
        Keep the group of a connection that ended before the group was sent.
        """
        if connection.answers:  # a server that closes after each reply: nothing can be proved
            group.isolation = Isolation.LOST
            if group.queries:
                self._waiting.appendleft(group)
            return
        if group.queries:
            self._waiting.append(group)
        self._pause = min(PAUSE_LAST, max(PAUSE_FIRST, 2 * self._pause))
        self._paused_until = self._now() + self._pause
        self._assign_later(self._pause)
        self._observer.isolated_check_failed(error)

    def _settled(self, connection: DotConnection) -> None:
        phase, group = self._uses[connection]
        if phase is not Phase.SETTLING:
            return  # it was dropped meanwhile
        self._uses.set(connection, Phase.ENDING)
        if group is not None and group.queries:
            self._use(connection, group)
        else:
            self._uses.set(connection, Phase.IDLE)
        self._assign()

    def _assign(self) -> None:
        """
        Send the groups that wait over idle connections, and dial for the rest.
        """
        if self._is_stopped:
            return
        for connection in reversed(self._uses.in_phase(Phase.IDLE)):
            group = self._next(is_fresh=not connection.answers)
            if group is None:
                break
            self._uses.set(connection, Phase.ENDING)  # unless it has room for the group
            self._use(connection, group)
        if not self.is_waiting or not self._may_dial():
            return
        now = self._now()
        if now < self._paused_until:
            self._assign_later(self._paused_until - now)
            return
        wanted = len(self._waiting) + min(len(self._background), self._background_room(is_fresh=True))
        most = self._most if now < self._most_until else MAX_CONNECTIONS
        self._dialer.dial(min(wanted - len(self._uses.in_phase(Phase.SETTLING)), most - len(self._uses)))
        if self._background:
            self._assign_later(1 / BACKGROUND_RATE)

    def _assign_later(self, seconds: float) -> None:
        if not self._is_timer_set and not self._is_stopped:
            self._is_timer_set = True
            self._timers.later(seconds, self._assign_now)

    def _assign_now(self) -> None:
        self._is_timer_set = False
        self._assign()

    def _background_room(self, *, is_fresh: bool) -> int:
        """
        Return how many background groups may be sent now; fewer over fresh connections.
        """
        busy = sum(group.is_background for group in (*self._uses.groups(Phase.BUSY), *self._uses.groups(Phase.PROVING)))
        room = max(0, MAX_BACKGROUND - busy)
        return min(room, self._background_limit.available(self._now())) if is_fresh else room

    def _next(self, *, is_fresh: bool) -> QueryGroup | None:
        """
        Return the next group that may be sent, without the queries that nobody waits for.
        """
        is_wanted = self._observer.is_wanted
        while self._waiting or (self._background and self._background_room(is_fresh=is_fresh)):
            is_check = bool(self._waiting) and not self._waiting[0].queries
            group = self._waiting.popleft() if self._waiting else joined(self._background)
            group.queries = [(token, message, end) for token, message, end in group.queries if is_wanted(token)]
            if group.queries or is_check:
                if group.is_background and is_fresh:
                    self._background_limit.take()
                return group
        return None

    def _use(self, connection: DotConnection, group: QueryGroup) -> None:
        """
        Send a group over a connection without outstanding queries, or first a probe.
        """
        if connection.room() < max(1, len(group.queries)):
            self._waiting.appendleft(group)
            return
        may_be_proved = self._quota.limit is None and not connection.answers
        if not group.queries or (group.isolation is Isolation.LAST and may_be_proved):
            self._uses.set(connection, Phase.PROVING, group)
            self._timers.later(PROBE_TIMEOUT, self._give_up, connection)
            connection.send([PROBE_QUERY])
            return
        self._uses.set(connection, Phase.BUSY, group)
        self._timers.later(GROUP_TIMEOUT, self._give_up, connection)
        connection.send(group.queries)

    def _give_up(self, connection: DotConnection) -> None:
        silence = self._now() - connection.last_heard
        connection.abort(Timeout("read", f"connected, but silent for {silence:.1f} s", self._observer.label))

    def _new_connection(self) -> DotConnection:
        return DotConnection(
            self,
            clock=self._runtime.clock,
            now=self._now,
            random_octets=self._runtime.random_octets,
            idle_timeout=IDLE_TIMEOUT,
            counters=self._counters,
        )

    def _connected(self, connection: DotConnection, seconds: float) -> None:
        self._uses.set(connection, Phase.IDLE)
        self._observer.isolated_connected(connection, seconds)
        self._assign()

    def _not_connected(self, error: UpstreamError) -> None:
        error.upstream = self._observer.label
        if not self._observer.isolated_not_connected(error):  # the upstream accepts no further connection
            until = self._now() + UNAVAILABLE_FOR
            if self._uses:
                self._most, self._most_until = len(self._uses), until
                return
            self._unavailable_until = until
        self.fail_waiting(error)
