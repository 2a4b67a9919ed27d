"""
The connections to one upstream.

Decides when another is dialled, which of them takes questions, and when one is no longer worth asking.  Whether the
upstream is up, and what becomes of questions, is its owner's business.

One connection takes questions at a time, in turn with others if answers are slow and many.  One that is under
suspicion is asked something easy, and if that brings nothing soon, replaced; one that has grown old is replaced too,
while it still serves.  What was replaced gets no more questions; those of a silent one are given back, but what it
still answers counts.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from dotproxy.errors import ConnectionEnd, Timeout, UpstreamError
from dotproxy.policy.connection_limits import IdleLimit, PerConnectionLimit, should_add_connection
from dotproxy.policy.latency import Latency
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.upstream.connection import Answer, DotConnection, Token
from dotproxy.upstream.dialer import Dials
from dotproxy.upstream.health_probe import PROBE, PROBE_QUESTION
from dotproxy.upstream.interfaces import PoolObserver
from dotproxy.upstream.timers import Timers

#: A retired connection may still answer what it was asked; after this long it is cut.
RETIREMENT = 4.0

#: How long a suspect has before another is dialled: thrice what an answer usually takes, within bounds; and in all.
PROBE_GRACE = (0.05, 0.25)
PROBE_TIMEOUT = 1.0

#: A connection is replaced when it is so old, in seconds, give or take a tenth.
MAX_AGE = 600.0

#: Where a server takes few questions over one connection, so many dials may be under way.
MAX_DIALS = 8

#: So many connections stand at most, dials and those included that were given up and may still answer.
MAX_STANDING = 128

#: Where another connection was not to be had beside one that works, none is dialled for so long, in seconds.
CONTENT = 60.0

#: A connection that ends so short a while after an answer was not ended for being idle.
_AT_ONCE = 0.2


class Pool:
    """
    Owns: the connections, the dial under way, and the timers that watch over them; ``retired`` are those given up.
    Told by: its owner, its connections.
    """

    def __init__(
        self,
        observer: PoolObserver,
        endpoint: IStreamClientEndpoint,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        random_octets: Callable[[int], bytes],
        jitter: Callable[[], float],
        idle_timeout: float,
        latency: Latency,
        counters: UpstreamCounters,
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._now = now
        self._random_octets = random_octets
        self._jitter = jitter
        self._idle = IdleLimit(idle_timeout)
        self._latency = latency
        self._counters = counters
        self._current: DotConnection | None = None
        self._standing: set[DotConnection] = set()
        self.retired: set[DotConnection] = set()
        self._probed: dict[DotConnection, float] = {}
        self._finishing: set[DotConnection] = set()
        self._spare: dict[DotConnection, None] = {}
        self._old: DotConnection | None = None
        self._dial_took = 0.0
        self._content_until = float("-inf")
        self._dials = Dials(
            endpoint,
            clock=clock,
            now=now,
            build=self._new_connection,
            connected=self._connected,
            failed=self._not_connected,
            slow=observer.pool_changed,
        )
        self.per_connection_limit = PerConnectionLimit(observer.limit_changed)
        self.timers = Timers(clock)
        self._all_closed: Deferred[None] | None = None

    @property
    def dial_is_slow(self) -> bool:
        """
        Whether there is no connection, and making one takes its time.
        """
        return self._dials.is_slow and self._current is None

    @property
    def current(self) -> DotConnection | None:
        """
        The connection that takes questions, if there is one.
        """
        while (connection := self._current) is not None:
            if not connection.is_closing:
                if self.per_connection_limit.limit is None or connection.queries_sent < self.per_connection_limit.limit:
                    break
                self._finish(connection)
            self._current = self._spare.popitem()[0] if self._spare else None
        return self._current

    def room(self) -> int:
        """
        How many questions the connection that takes questions takes now.
        """
        connection = self.current
        if connection is None:
            return 0
        room, limit = connection.room(), self.per_connection_limit.limit
        return room if limit is None else min(room, limit - connection.queries_sent)

    @property
    def is_dialling(self) -> bool:
        """
        Whether there will be one, or a failure.
        """
        return bool(len(self._dials))

    @property
    def is_suspect(self) -> bool:
        """
        Whether the connection that takes questions is under suspicion.
        """
        return self._current in self._probed

    @property
    def last_heard(self) -> float:
        """
        When one of the connections that take questions brought something.
        """
        return max([connection.last_heard for connection in (self._current, *self._spare) if connection])

    @property
    def outstanding(self) -> int:
        """
        How many questions have no answer yet.
        """
        return sum(connection.outstanding for connection in self._standing)

    def dial(self, waiting: int = 0) -> None:
        """
        Dial, unless that is under way; more than once where so many questions take more than one connection.
        """
        limit = self.per_connection_limit.limit
        wanted = 1 if limit is None else min(MAX_DIALS, -(-waiting // limit) or 1)
        self._dials.dial(min(wanted, MAX_STANDING - len(self._standing)))

    def balance(self, took: float) -> None:
        """
        Take note that an answer took so long; let the connection with the least to do take questions.
        """
        connection = self.current
        if connection is None or connection in self._probed or self._old or self.per_connection_limit.limit is not None:
            return
        if self._spare:
            least = min(self._spare, key=lambda spare: spare.outstanding)
            if least.room() and 2 * least.outstanding < connection.outstanding:
                del self._spare[least]
                self._spare[connection], self._current = None, least
        sharing = [connection, *self._spare]
        outstanding = sum(one.outstanding for one in sharing)
        is_content = self._now() <= self._content_until
        if not is_content and should_add_connection(took, self._dial_took, outstanding, len(sharing)):
            self.dial()

    def probe(self, connection: DotConnection) -> None:
        """
        Ask a connection something easy; if that brings nothing, give it up.
        """
        self._probed[connection] = sent_at = self._now()
        connection.probes += 1
        connection.send([PROBE_QUESTION])
        self.timers.later(PROBE_TIMEOUT, self._judge_probe, connection, sent_at)
        self._observer.pool_changed()

    def check_liveness(self) -> None:
        """
        Put the connection that takes questions under suspicion, unless it is.
        """
        connection = self._current
        if connection is None or connection in self._probed:
            return
        self._counters.stalls += 1
        if not connection.room():
            self._retire(connection)
            return
        self.probe(connection)
        low, high = PROBE_GRACE
        grace = high if self._latency.p50 is None else min(high, max(low, 3 * self._latency.p50))
        self.timers.later(grace, self._replace_if_silent, connection, self._probed[connection])

    def give_up_silent(self, since: float) -> None:
        """
        Give up those beside the one that takes questions that owe answers and brought nothing since then.
        """
        silent = [connection for connection in self._finishing if connection.last_heard <= since]
        self._finishing.difference_update(silent)
        long_ago = self._now() - RETIREMENT
        silent += [
            one for one in self._spare if one.outstanding and one.last_heard <= since and one.last_used < long_ago
        ]
        for connection in silent:
            self._retire(connection)

    def drop_all(self, why: str, end: ConnectionEnd) -> None:
        """
        Give up every connection, and the dial under way; ``end`` is how that is counted.
        """
        self._dials.give_up()
        self._spare.clear()
        for connection in tuple(self._standing - self.retired):
            if connection.outstanding:
                self._retire(connection, why)
            else:
                connection.close(end)
        self._current = None

    def stop(self) -> Deferred[None]:
        """
        Close every connection; return a Deferred that fires when that is done.
        """
        self.timers.stop()
        self._dials.give_up()
        self._current = None
        self._spare.clear()
        if not self._standing:
            return succeed(None)
        self._all_closed = all_closed = Deferred[None]()
        for connection in tuple(self._standing):
            connection.close("stopped")
        return all_closed

    def replies_received(self, connection: DotConnection, answers: list[Answer]) -> None:
        """
        A connection brought answers.
        """
        probed_for = None
        if connection.probes:
            asked_at = self._probed.pop(connection, None)
            probed_for = None if asked_at is None else self._now() - asked_at
            others = [answer for answer in answers if answer[0] is not PROBE]
            connection.probes -= len(answers) - len(others)
            answers = others
        self._observer.replies_received(connection, answers, probed_for)
        if not connection.outstanding and (connection in self.retired or connection in self._finishing):
            connection.close("replaced")

    def connection_lost(self, connection: DotConnection, tokens: list[Token], error: UpstreamError) -> None:
        """
        A connection ended: of age, of idleness, or under questions.
        """
        was_retired = connection in self.retired
        self._standing.discard(connection)
        self.retired.discard(connection)
        self._finishing.discard(connection)
        self._spare.pop(connection, None)
        self._probed.pop(connection, None)
        self.timers.forget(connection)
        self._counters.count_closed(connection.ended_for, error.code)
        if connection is self._current:
            self._current = None
        if not connection.is_ours_to_end and not was_retired:
            silence = self._now() - connection.last_heard
            if tokens or silence < _AT_ONCE:
                self.per_connection_limit.ended(connection.answers)
            else:
                self._idle.closed_by_peer(self._now() - connection.last_used)
        # One that had answered shows an upstream that works, and closes as it sees fit (RFC 7766 §6.2.4).
        is_unanswered = bool(tokens) and not connection.answers and not was_retired
        # What was outstanding on a retired one was given back when it retired.
        asked = [] if was_retired else [token for token in tokens if token is not PROBE]
        self._observer.lost(asked, error, is_unanswered=is_unanswered)
        if self._all_closed is not None and not self._standing:
            done, self._all_closed = self._all_closed, None
            done.callback(None)

    def connection_has_room(self, connection: DotConnection) -> None:
        """
        A connection that took no more takes some again.
        """
        self._observer.has_room()

    def _new_connection(self) -> DotConnection:
        return DotConnection(
            self,
            clock=self._clock,
            now=self._now,
            random_octets=self._random_octets,
            idle_timeout=self._idle.next_timeout(),
            counters=self._counters,
        )

    def _connected(self, connection: DotConnection, seconds: float) -> None:
        before = self.current
        self._standing.add(connection)
        self._dial_took = seconds
        self.timers.later(MAX_AGE * (0.9 + 0.2 * self._jitter()), self._replace_if_old, connection)
        if before is None or before in self._probed or before is self._old:
            self._current = connection
        else:
            self._spare[connection] = None
        self._observer.connected(connection, seconds)
        if before is not None and before is not self._current:
            self._replaced(before)

    def _not_connected(self, error: UpstreamError) -> None:
        error.upstream = self._observer.label
        if self.current is None or self.is_suspect:
            self._observer.not_connected(error)
            return
        self._content_until = self._now() + CONTENT
        if self._old is not None:
            self.timers.later(CONTENT, self._replace_if_old, self._old)
            self._old = None

    def _judge_probe(self, connection: DotConnection, sent_at: float) -> None:
        if connection is self._current and self._probed.get(connection) == sent_at:
            self._retire(connection)

    def _replace_if_silent(self, connection: DotConnection, sent_at: float) -> None:
        if connection is self._current and self._probed.get(connection) == sent_at:
            self.dial()

    def _replace_if_old(self, connection: DotConnection) -> None:
        if connection in self._spare:
            del self._spare[connection]
            self._finish(connection)
        elif connection is not self._current:
            return
        elif connection.outstanding or self._now() - connection.last_used < 1:
            self._old = connection
            self.dial()
        else:
            connection.close("age")

    def _replaced(self, connection: DotConnection) -> None:
        """
        Another connection has taken a connection's place.
        """
        self._old = None
        if connection in self._probed:
            self._retire(connection)
        else:
            self._finish(connection)

    def _finish(self, connection: DotConnection) -> None:
        """
        Ask a connection nothing more, and close it when it has answered what it was asked.
        """
        if connection.outstanding:
            self._finishing.add(connection)
            self.timers.later(RETIREMENT, self._end_finishing, connection)
        else:
            connection.close("replaced")

    def _end_finishing(self, connection: DotConnection) -> None:
        if connection in self._finishing:
            connection.abort(Timeout("read", "no answer in time", self._observer.label))

    def _retire(self, connection: DotConnection, why: str = "") -> None:
        """
        Ask a connection nothing more, and give its questions back.
        """
        was_current = connection is self._current
        if was_current:
            self._current = None
        self._spare.pop(connection, None)
        self.retired.add(connection)
        self._probed.pop(connection, None)
        silence = self._now() - connection.last_heard
        if connection.answers and not why:
            self.per_connection_limit.ended(connection.answers)
        error = Timeout("read", why or f"connected, but silent for {silence:.1f} s", self._observer.label)
        self.timers.later(RETIREMENT, self._end_retirement, connection, error)
        tokens = [token for token in connection.pending_tokens() if token is not PROBE]
        self._observer.retired(tokens, error, was_silent=was_current and not why)

    def _end_retirement(self, connection: DotConnection, error: UpstreamError) -> None:
        if connection in self.retired:
            connection.abort(error)
