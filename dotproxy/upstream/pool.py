"""
The connections to one upstream that all queries share.

Decides when another is dialled, which of them takes queries, and when one is replaced or given up.  Whether the
upstream is up, and what becomes of queries, is its observer's decision.

One connection takes queries at a time, in turn with others if replies are slow and many queries are in flight.  A
silent one is sent a probe, and replaced if no reply comes; one that is ten minutes old is replaced while it still
serves.  ``connection_state`` has the states of a connection and their order.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint

from dotproxy.errors import ConnectionEnd, Timeout, UpstreamError
from dotproxy.policy.connection_limits import IdleLimit, PerConnectionLimit, should_add_connection
from dotproxy.policy.latency import Latency
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.upstream.connection import DRAIN_TIMEOUT, DotConnection, OutgoingQuery, Reply, Token
from dotproxy.upstream.connection_state import DRAINING, READY, SUSPECT, summary
from dotproxy.upstream.connection_table import ConnectionTable
from dotproxy.upstream.dialer import Dialer
from dotproxy.upstream.health_probe import PROBE
from dotproxy.upstream.interfaces import PoolObserver
from dotproxy.upstream.settings import Runtime
from dotproxy.upstream.timers import Timers

#: Seconds without a reply to a probe after which another connection is dialled: thrice the median latency, within
#: these bounds.  After ``PROBE_TIMEOUT`` seconds the silent one is given up.
PROBE_GRACE = (0.05, 0.25)
PROBE_TIMEOUT = 1.0

#: A connection is replaced at this age, in seconds, plus or minus a tenth.
MAX_AGE = 600.0

#: The most dials under way at once, to an upstream that takes few queries over one connection.
MAX_DIALS = 8

#: The most connections at once, including dials and connections that drain or are retired.
MAX_STANDING = 128

#: After a failed dial beside a connection that works, none is tried for so many seconds.
REDIAL_PAUSE = 60.0

#: A connection that ends within so many seconds after a reply was not ended for being idle.
_AT_ONCE = 0.2


class Pool:
    """
    Owns: the connections, the dials under way, and the timers of both.
    Told by: the upstream, its connections.
    Tells: its observer, a ``PoolObserver``.
    """

    def __init__(
        self,
        observer: PoolObserver,
        endpoint: IStreamClientEndpoint,
        *,
        runtime: Runtime,
        idle_timeout: float,
        latency: Latency,
        counters: UpstreamCounters,
    ) -> None:
        self._observer = observer
        self._runtime = runtime
        self._now = runtime.now
        self._latency = latency
        self._counters = counters
        self._idle = IdleLimit(idle_timeout)
        self.per_connection_limit = PerConnectionLimit(observer.limit_changed)
        self.timers = Timers(runtime.clock)
        self._table = ConnectionTable()
        self._aged: DotConnection | None = None  # the active one, while its replacement is dialled
        self._dial_seconds = 0.0
        self._no_dial_until = float("-inf")
        self._all_closed: Deferred[None] | None = None
        self._dialer = Dialer(
            endpoint,
            clock=runtime.clock,
            now=runtime.now,
            build=self._new_connection,
            connected=self._connected,
            failed=self._not_connected,
            slow=observer.pool_changed,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._observer.label}: {self.summary}>"

    @property
    def connections(self) -> int:
        """
        The number of connections that are not closed yet.
        """
        return len(self._table)

    @property
    def summary(self) -> str:
        """
        The number of connections in each state, as text.
        """
        return summary(self._table, len(self._dialer))

    @property
    def has_slow_dial(self) -> bool:
        """
        Whether there is no connection, and a dial is slow.
        """
        return self._dialer.is_slow and self._table.active is None

    @property
    def is_dialling(self) -> bool:
        """
        Whether a dial is under way.
        """
        return bool(len(self._dialer))

    @property
    def is_suspect(self) -> bool:
        """
        Whether the active connection has a probe without any reply since.
        """
        active = self._table.active
        return active is not None and active.state is SUSPECT

    @property
    def last_heard(self) -> float:
        """
        When an open connection last received octets; there has to be one.
        """
        active = self._table.active
        heard = [connection.last_heard for connection in self._table.spares]
        return max(heard if active is None else [active.last_heard, *heard])

    @property
    def outstanding(self) -> int:
        """
        The number of queries without a reply.
        """
        return self._table.outstanding

    def select(self) -> DotConnection | None:
        """
        Return the connection that takes queries, if there is one; replace one that takes no more by a spare.
        """
        table, limit = self._table, self.per_connection_limit.limit
        while (connection := table.active) is not None:
            if connection.state < DRAINING:
                if limit is None or connection.queries_sent < limit:
                    break
                connection.drain(ConnectionEnd.REPLACED)
            table.activate_spare()
        return connection

    def room(self) -> int:
        """
        Return how many queries the active connection takes now.
        """
        connection = self.select()
        if connection is None:
            return 0
        room, limit = connection.room(), self.per_connection_limit.limit
        return room if limit is None else min(room, limit - connection.queries_sent)

    def try_send(self, queries: list[OutgoingQuery]) -> bool:
        """
        Send queries over the active connection; return whether it had room for all of them.
        """
        connection = self.select()
        if connection is None:
            return False
        count, limit = len(queries), self.per_connection_limit.limit
        if connection.room() < count or (limit is not None and limit - connection.queries_sent < count):
            return False
        connection.send(queries)
        return True

    def dial(self, waiting: int = 0) -> None:
        """
        Dial, unless that is under way; several times if the ``waiting`` queries need several connections.
        """
        limit = self.per_connection_limit.limit
        wanted = 1 if limit is None else min(MAX_DIALS, -(-waiting // limit) or 1)
        self._dialer.dial(min(wanted, MAX_STANDING - len(self._table)))

    def balance(self, took: float) -> None:
        """
        Activate the connection with the fewest queries in flight, and dial another if responses, of which one ``took``
        so many seconds, are slow.
        """
        active = self.select()
        if active is None or active.state is SUSPECT or active is self._aged:
            return
        if self.per_connection_limit.limit is not None:
            return
        spares = self._table.spares
        outstanding = active.outstanding + sum(spare.outstanding for spare in spares)
        if spares:
            least = min(spares, key=lambda spare: spare.outstanding)
            if least.room() and 2 * least.outstanding < active.outstanding:
                self._table.activate(least)
        may_dial = self._now() > self._no_dial_until
        if may_dial and should_add_connection(took, self._dial_seconds, outstanding, 1 + len(spares)):
            self.dial()

    def probe(self, connection: DotConnection) -> None:
        """
        Send a probe; if no reply to anything comes in time, give the connection up.
        """
        if connection.state is READY:
            connection.enter(SUSPECT)
        connection.send_probe()
        self.timers.later(PROBE_TIMEOUT, self._retire_if_silent, connection, connection.probe_sent_at)
        self._observer.pool_changed()

    def check_liveness(self) -> None:
        """
        Probe the active connection, unless it is being probed; give it up if it does not take even a probe.
        """
        connection = self._table.active
        if connection is None or connection.state is SUSPECT:
            return
        self._counters.stalls += 1
        if not connection.room():
            self._retire(connection)
            return
        self.probe(connection)
        low, high = PROBE_GRACE
        grace = high if self._latency.p50 is None else min(high, max(low, 3 * self._latency.p50))
        self.timers.later(grace, self._replace_if_silent, connection, connection.probe_sent_at)

    def give_up_silent(self, since: float) -> None:
        """
        Give up the connections beside the active one that owe replies and received nothing since then.
        """
        long_ago = self._now() - DRAIN_TIMEOUT
        silent = [one for one in self._table.in_state(DRAINING) if one.last_heard <= since]
        silent += [
            spare
            for spare in self._table.spares
            if spare.outstanding and spare.last_heard <= since and spare.last_used < long_ago
        ]
        for connection in silent:
            self._retire(connection)

    def drop_all(self, why: str, end: ConnectionEnd) -> None:
        """
        Give up every connection and the dials under way; ``end`` is the reason that is counted.
        """
        self._dialer.cancel_all()
        dropped = self._table.before_retirement
        self._table.active = self._aged = None
        busy = [connection for connection in dropped if connection.outstanding]
        for connection in dropped:
            if not connection.outstanding:
                connection.close(end)
        for connection in busy:
            self._retire(connection, why)

    def stop(self) -> Deferred[None]:
        """
        Close every connection; return a Deferred that fires when all are gone.
        """
        self.timers.stop()
        self._dialer.cancel_all()
        self._table.active = None
        if not self._table:
            return succeed(None)
        self._all_closed = all_closed = Deferred[None]()
        for connection in self._table:
            connection.close(ConnectionEnd.STOPPED)
        return all_closed

    def replies_received(self, connection: DotConnection, answers: list[Reply]) -> None:
        """
        Called by a connection.
        """
        probed_for = None
        if connection.probes:
            if connection.state is SUSPECT:
                connection.enter(READY)
                probed_for = self._now() - connection.probe_sent_at
            others = [(token, reply) for token, reply in answers if token is not PROBE]
            connection.probes -= len(answers) - len(others)
            answers = others
        self._observer.replies_received(connection, answers, probed_for)

    def connection_lost(
        self, connection: DotConnection, tokens: list[Token], error: UpstreamError, *, was_retired: bool
    ) -> None:
        """
        Called by a connection.
        """
        self._table.remove(connection)
        self.timers.forget(connection)
        self._counters.count_closed(connection.ended_for, error.code)
        if not connection.ended_for and not was_retired:
            silence = self._now() - connection.last_heard
            if tokens or silence < _AT_ONCE:
                self.per_connection_limit.ended(connection.answers)
            else:
                self._idle.closed_by_peer(self._now() - connection.last_used)
        # One that has replied shows an upstream that works; it may close when it wants to (RFC 7766 §6.2.4).
        is_unanswered = bool(tokens) and not connection.answers
        self._observer.lost([token for token in tokens if token is not PROBE], error, is_unanswered=is_unanswered)
        if self._all_closed is not None and not self._table:
            done, self._all_closed = self._all_closed, None
            done.callback(None)

    def connection_has_room(self, connection: DotConnection) -> None:
        """
        Called by a connection.
        """
        self._observer.has_room()

    def _new_connection(self) -> DotConnection:
        return DotConnection(
            self,
            clock=self._runtime.clock,
            now=self._now,
            random_octets=self._runtime.random_octets,
            idle_timeout=self._idle.next_timeout(),
            counters=self._counters,
        )

    def _connected(self, connection: DotConnection, seconds: float) -> None:
        before = self.select()
        self._table.add(connection)
        self._dial_seconds = seconds
        self.timers.later(MAX_AGE * (0.9 + 0.2 * self._runtime.jitter()), self._replace_aged, connection)
        is_replaced = before is not None and (before.state is SUSPECT or before is self._aged)
        if before is None or is_replaced:
            self._table.active = connection
        self._observer.connected(connection, seconds)
        if before is not None and is_replaced:
            self._aged = None
            if before.state is SUSPECT:
                self._retire(before)
            else:
                before.drain(ConnectionEnd.REPLACED)

    def _not_connected(self, error: UpstreamError) -> None:
        error.upstream = self._observer.label
        if self.select() is None or self.is_suspect:
            self._observer.not_connected(error)
            return
        self._no_dial_until = self._now() + REDIAL_PAUSE
        if self._aged is not None and self._aged is self._table.active:
            self.timers.later(REDIAL_PAUSE, self._replace_aged, self._aged)
        self._aged = None

    def _is_still_silent(self, connection: DotConnection, probe_sent_at: float) -> bool:
        """
        Return whether the active connection has received nothing since this probe.
        """
        is_same_probe = connection.state is SUSPECT and connection.probe_sent_at == probe_sent_at
        return is_same_probe and connection is self._table.active

    def _retire_if_silent(self, connection: DotConnection, probe_sent_at: float) -> None:
        if self._is_still_silent(connection, probe_sent_at):
            self._retire(connection)

    def _replace_if_silent(self, connection: DotConnection, probe_sent_at: float) -> None:
        if self._is_still_silent(connection, probe_sent_at):
            self.dial()

    def _replace_aged(self, connection: DotConnection) -> None:
        """
        Replace a connection that has reached its age: dial first if it is the active one, and in use.
        """
        if connection.state >= DRAINING:
            return
        if connection is not self._table.active:
            connection.drain(ConnectionEnd.REPLACED)
        elif connection.outstanding or self._now() - connection.last_used < 1:
            self._aged = connection
            self.dial()
        else:
            connection.close(ConnectionEnd.AGE)

    def _retire(self, connection: DotConnection, why: str = "") -> None:
        """
        Send a connection no more queries, and hand those outstanding back: it is silent, unless ``why`` says otherwise.
        """
        was_active = connection is self._table.active
        silence = self._now() - connection.last_heard
        if connection.answers and not why:
            self.per_connection_limit.ended(connection.answers)
        error = Timeout("read", why or f"connected, but silent for {silence:.1f} s", self._observer.label)
        tokens = [token for token in connection.retire(error) if token is not PROBE]
        if was_active:
            self._table.activate_spare()
        self._observer.retired(tokens, error, was_silent=was_active and not why)
