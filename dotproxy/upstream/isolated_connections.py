"""
Connections of their own for queries that may end the connection they are on.

Decides how many there are, which queries go on which of them, and what the end of one says about the queries on it.
Whether a query has to be kept apart, and what becomes of one that ended its connection, is its observer's business.

A query that was outstanding on a connection that ended is sent again here: alone, or, if many were, in a few groups, so
that whatever ended the connection cannot take the others with it again.  A connection that has answered serves the next
group, one group at a time.  The last attempt at a query goes over a connection that has answered before, so that a
connection that was bad from the start is not held against the query.
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
from dotproxy.upstream.connection import Answer, DotConnection, Question, Token
from dotproxy.upstream.dialer import Dialer
from dotproxy.upstream.health_probe import PROBE, PROBE_QUESTION
from dotproxy.upstream.interfaces import IsolationObserver
from dotproxy.upstream.query_groups import QueryGroup, grouped, joined
from dotproxy.upstream.settings import Runtime
from dotproxy.upstream.timers import Timers

#: So many connections at most, dials included; of them so many for what is not ordinary: some servers take ten in all.
MAX_CONNECTIONS = 32
MAX_BACKGROUND = 2

#: Connections for what is not ordinary are begun so often a second at most, and so many at once.
BACKGROUND_RATE = 20.0

#: So many groups of what is not ordinary wait at most; more fail at once.
MAX_WAITING = 200

#: A connection that nobody uses is closed after this long, in seconds.
IDLE_TIMEOUT = 1.0

#: How long a group may take, and the probe before it.
GROUP_TIMEOUT = 4.0
PROBE_TIMEOUT = 1.0

#: After its first answer a connection is left alone for so long: some servers close it then.
SETTLING = 0.02

#: Where no other connection is to be had beside those that stand, none is tried for so long.
UNAVAILABLE_FOR = 5.0

#: After connections that answered nothing the next is dialled so much later, doubling from the first to the last.
PAUSE_FIRST, PAUSE_LAST = 0.05, 1.0


class IsolatedConnections:
    """
    Owns: the groups that wait, the connections, and the dials for them.
    Told by: the upstream (``send``, ``check``), its connections.

    ``may_dial`` says whether the upstream is up; ``resume`` is called when it is again.
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
        self._busy: dict[DotConnection, QueryGroup] = {}
        self._proving: dict[DotConnection, QueryGroup] = {}
        self._settling: dict[DotConnection, QueryGroup | None] = {}
        self._idle: list[DotConnection] = []
        self._standing: set[DotConnection] = set()
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
            f"<{type(self).__name__} waiting={waiting} busy={len(self._busy)} proving={len(self._proving)}"
            f" idle={len(self._idle)} dials={len(self._dialer)}>"
        )

    @property
    def is_available(self) -> bool:
        """
        Whether there can be connections beside the one that all share.
        """
        return self._now() >= self._unavailable_until

    @property
    def is_waiting(self) -> bool:
        """
        Whether there is something that was not sent yet.
        """
        return bool(self._waiting or self._background)

    @property
    def outstanding(self) -> int:
        """
        How many queries have no reply yet.
        """
        unsent = (*self._waiting, *self._background, *self._proving.values(), *self._settling.values())
        waiting = sum(len(group.questions) for group in unsent if group is not None)
        return waiting + sum(connection.outstanding for connection in self._busy)

    def send(self, questions: list[Question], isolation: Isolation, *, is_background: bool = False) -> None:
        """
        Send queries, each alone, or in a few groups if they are many and it is not their last attempt.
        """
        groups = grouped(questions, isolation, is_background=is_background)
        if is_background:
            room = max(0, MAX_WAITING - len(self._background))
            self._background += groups[:room]
            if over := [question[0] for group in groups[room:] for question in group.questions]:
                error = ConnectionGone("read", "too many queries of a kind that ends connections", self._observer.label)
                self._observer.isolated_fail(over, error, is_final=True)
        else:
            self._waiting += groups
        self._assign()

    def check(self) -> None:
        """
        Find out whether the upstream answers anything at all, unless that is under way.
        """
        if all(group.questions for group in (*self._waiting, *self._proving.values())):
            self._waiting.appendleft(QueryGroup([], Isolation.LAST))
            self._assign()

    def resume(self) -> None:
        """
        Take note that the upstream may be dialled again.
        """
        if self.is_waiting:
            self._assign()

    def fail_waiting(self, error: UpstreamError) -> None:
        """
        Fail whatever was not sent: the upstream cannot be reached.
        """
        groups = [*self._waiting, *self._background]
        self._waiting.clear()
        self._background.clear()
        if tokens := [question[0] for group in groups for question in group.questions]:
            self._observer.isolated_fail(tokens, error, is_final=False)

    def drop_all(self, why: str, end: ConnectionEnd) -> None:
        """
        Give up every connection and every dial; what was sent fails, what waits goes on waiting.  ``end`` is how the
        connections are counted.
        """
        self._dialer.cancel_all()
        self._take_back_unsent()
        error = Timeout("read", why, self._observer.label)
        error.code = end
        for connection in tuple(self._standing):
            connection.abort(error)

    def stop(self, done: Callable[[], None]) -> None:
        """
        Close every connection, fail what waits; call ``done`` when that has happened.
        """
        self._is_stopped = True
        self._timers.stop()
        self._dialer.cancel_all()
        self._take_back_unsent()
        self.fail_waiting(Unreachable("connect", "stopped", self._observer.label))
        if not self._standing:
            done()
            return
        self._all_closed = done
        for connection in tuple(self._standing):
            connection.close(ConnectionEnd.STOPPED)

    def replies_received(self, connection: DotConnection, answers: list[Answer]) -> None:
        """
        Called by a connection.
        """
        self._pause = 0.0
        group = self._proving.pop(connection, None)
        self._observer.isolated_replies_received([answer for answer in answers if answer[0] is not PROBE])
        if connection.outstanding:
            return
        self._timers.forget(connection)
        self._busy.pop(connection, None)
        limit = self._quota.limit
        if limit is not None and connection.queries_sent >= limit:
            connection.close(ConnectionEnd.REPLACED)
        elif connection.answers == 1:
            self._settling[connection] = group
            self._timers.later(SETTLING, self._settled, connection)
        elif connection.is_open and not self._is_stopped:
            self._idle.append(connection)
        self._assign()

    def connection_lost(
        self, connection: DotConnection, tokens: list[Token], error: UpstreamError, *, was_retired: bool = False
    ) -> None:
        """
        Called by a connection.
        """
        error.upstream = self._observer.label
        self._timers.forget(connection)
        self._standing.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._counters.count_closed(connection.ended_for, error.code)
        group = self._busy.pop(connection, None)
        unproved = self._proving.pop(connection, None) or self._settling.pop(connection, None)
        if not connection.ended_for and (not tokens or (group is not None and len(group.questions) > 1)):
            self._quota.ended(connection.answers)
        if unproved is not None:
            self._not_proved(connection, unproved, error)
        elif group is not None and tokens:
            wanted = set(tokens)
            if isinstance(error, ConnectionGone):
                error.was_alone = len(group.questions) == 1 and not connection.ended_for
            lost = [question for question in group.questions if question[0] in wanted]
            self._observer.isolated_lost(
                lost, error, group.isolation, answers=connection.answers, is_unusual=group.is_unusual
            )
        if self._all_closed is not None and not self._standing:
            done, self._all_closed = self._all_closed, None
            done()
        self._assign()

    def connection_has_room(self, connection: DotConnection) -> None:
        """
        Called by a connection; no group is large enough to fill one.
        """

    def _take_back_unsent(self) -> None:
        self._waiting += [group for group in (*self._proving.values(), *self._settling.values()) if group is not None]
        self._proving.clear()
        self._settling.clear()

    def _not_proved(self, connection: DotConnection, group: QueryGroup, error: UpstreamError) -> None:
        """
        A connection ended before the group was sent that it was to be tried for.
        """
        if connection.answers:  # it does answer, and is closed after that: there is nothing to be proved
            group.isolation = Isolation.LOST
            if group.questions:
                self._waiting.appendleft(group)
            return
        if group.questions:
            self._waiting.append(group)
        self._pause = min(PAUSE_LAST, max(PAUSE_FIRST, 2 * self._pause))
        self._paused_until = self._now() + self._pause
        self._assign_later(self._pause)
        self._observer.isolated_check_failed(error)

    def _settled(self, connection: DotConnection) -> None:
        if connection not in self._settling:
            return  # it was given up meanwhile
        group = self._settling.pop(connection)
        if group is not None and group.questions:
            self._use(connection, group)
        else:
            self._idle.append(connection)
        self._assign()

    def _assign(self) -> None:
        """
        Give the groups that wait to connections, and see to it that there will be more.
        """
        if self._is_stopped:
            return
        while self._idle:
            connection = self._idle[-1]
            group = self._next(is_fresh=not connection.answers)
            if group is None:
                break
            self._idle.pop()
            self._use(connection, group)
        if not self.is_waiting or not self._may_dial():
            return
        now = self._now()
        if now < self._paused_until:
            self._assign_later(self._paused_until - now)
            return
        wanted = len(self._waiting) + min(len(self._background), self._background_room(is_fresh=True))
        most = self._most if now < self._most_until else MAX_CONNECTIONS
        self._dialer.dial(min(wanted - len(self._settling), most - len(self._standing)))
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
        Return how many groups that are not ordinary may be sent now; over fresh connections fewer.
        """
        busy = sum(group.is_background for group in (*self._busy.values(), *self._proving.values()))
        room = max(0, MAX_BACKGROUND - busy)
        return min(room, self._background_limit.available(self._now())) if is_fresh else room

    def _next(self, *, is_fresh: bool) -> QueryGroup | None:
        """
        Return the next group that somebody waits for and that may be sent.
        """
        is_wanted = self._observer.is_wanted
        while self._waiting or (self._background and self._background_room(is_fresh=is_fresh)):
            is_check = bool(self._waiting) and not self._waiting[0].questions
            group = self._waiting.popleft() if self._waiting else joined(self._background)
            group.questions = [question for question in group.questions if is_wanted(question[0])]
            if group.questions or is_check:
                if group.is_background and is_fresh:
                    self._background_limit.take()
                return group
        return None

    def _use(self, connection: DotConnection, group: QueryGroup) -> None:
        """
        Send a group over a connection on which nothing is outstanding, or first what shows that it answers.
        """
        if connection.room() < max(1, len(group.questions)):
            self._waiting.appendleft(group)
            return
        may_be_proved = self._quota.limit is None and not connection.answers
        if not group.questions or (group.isolation is Isolation.LAST and may_be_proved):
            self._proving[connection] = group
            self._timers.later(PROBE_TIMEOUT, self._give_up, connection)
            connection.send([PROBE_QUESTION])
            return
        self._busy[connection] = group
        self._timers.later(GROUP_TIMEOUT, self._give_up, connection)
        connection.send(group.questions)

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
        self._standing.add(connection)
        self._idle.append(connection)
        self._observer.isolated_connected(connection, seconds)
        self._assign()

    def _not_connected(self, error: UpstreamError) -> None:
        error.upstream = self._observer.label
        if not self._observer.isolated_not_connected(error):  # it takes no more connections than it has
            until = self._now() + UNAVAILABLE_FOR
            if self._standing:
                self._most, self._most_until = len(self._standing), until
                return
            self._unavailable_until = until
        self.fail_waiting(error)
