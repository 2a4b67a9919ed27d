"""
One verified connection to an upstream: a conversation joined to a transport.

Decides when octets are written, and when a connection is closed that is idle, that has drained, or that the upstream
asked to close.  Which queries are sent over it, and what becomes of replies, is its observer's decision.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.errors import BadReply, ConnectionEnd, ConnectionGone, Timeout, UpstreamError
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.upstream.connection_state import (
    CLOSED,
    CLOSING,
    DIALLING,
    DRAINING,
    READY,
    RETIRED,
    ConnectionState,
    follow,
)
from dotproxy.upstream.health_probe import PROBE_QUERY
from dotproxy.upstream.spec import endpoint_text
from dotproxy.upstream.tcp_options import TICKET_DELAY, acknowledge_now, limit_unacknowledged
from dotproxy.upstream.timers import cancel
from dotproxy.upstream.tls_errors import lost
from dotproxy.upstream.verification import Identity
from dotproxy.wire.conversation import Conversation
from dotproxy.wire.reply_options import KEEPALIVE_HEAD, keepalive_of

#: What a query is known by: handed back with its reply, or when it fails, and not looked into.  The dispatcher that
#: sends queries and receives their tokens knows the type, so it is not checked here.
Token = Any
#: A token, a whole query message whose ID does not matter, and the offset after its question.  A plain tuple: one is
#: made for each query, and a NamedTuple takes several times as long to make.
OutgoingQuery = tuple[Token, bytes, int]
#: The token of a query, and the whole response message.
Reply = tuple[Token, bytes]

#: A connection that is still there so many seconds after it was closed is cut.
CLOSE_TIMEOUT = 1.0

#: A draining or retired connection is cut after so many seconds, replied to or not.
DRAIN_TIMEOUT = 4.0

#: The part of the idle timeout granted by an upstream that is used; the rest allows for the network's delay.
_GRANTED_PART = 0.9

#: A remaining time below this, in seconds, is a rounding error.
_ROUNDING = 0.001


def tokens_of(queries: Iterable[OutgoingQuery]) -> list[Token]:
    """
    Return the tokens of queries, in their order.
    """
    return [token for token, _, _ in queries]


class ConnectionObserver(Protocol):
    """
    What a connection reports to: a pool.
    """

    def replies_received(self, connection: DotConnection, answers: list[Reply]) -> None:
        """
        Replies came; their queries are no longer outstanding.
        """

    def connection_lost(
        self, connection: DotConnection, tokens: list[Token], error: UpstreamError, *, was_retired: bool
    ) -> None:
        """
        The connection is gone; ``tokens`` are those of its outstanding queries, unless it had been retired.
        """

    def connection_has_room(self, connection: DotConnection) -> None:
        """
        The transport accepts octets again.
        """


@implementer(IPushProducer)
class DotConnection(TwistedProtocol):
    """
    Owns: its outstanding queries, until they are replied to or handed back, and its timers.
    Told by: its pool (``send``, ``send_probe``, ``drain``, ``retire``, ``close``, ``abort``) and Twisted.
    Ends when: the transport is gone; ``connection_lost`` is then called exactly once.

    ``state`` is where it is in its life, and changes as ``connection_state`` allows.
    """

    transport: Any

    #: What was verified of the peer; set by ``verified_endpoint`` before ``connectionMade``.
    identity: Identity

    def __init__(
        self,
        observer: ConnectionObserver,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        random_octets: Callable[[int], bytes],
        idle_timeout: float,
        counters: UpstreamCounters,
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._now = now
        self._idle_timeout = idle_timeout
        self._counters = counters
        self._is_in_the_clear = False
        self._conversation: Conversation[Token] = Conversation(random_octets)
        self._is_blocked = False  # by a transport that holds enough octets; independent of the state
        self._error: UpstreamError | None = None
        self._idle_timer: IDelayedCall | None = None
        self._close_timer: IDelayedCall | None = None
        self._ticket_timer: IDelayedCall | None = None
        self._socket: socket.socket | None = None
        self._write_now: Callable[[], object] | None = None
        self.last_heard = self.last_used = now()
        self.state = DIALLING
        #: How many probes are outstanding, and when the last of them was sent.
        self.probes = 0
        self.probe_sent_at = 0.0
        #: Why it was closed here, a ``ConnectionEnd``; "" if it was not.
        self.ended_for = ""
        self._drained_for = ConnectionEnd.REPLACED

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.state.name.lower()}:"
            f" {self.outstanding} in flight, {self.answers} replies received>"
        )

    @property
    def outstanding(self) -> int:
        """
        The number of queries without a reply, probes included.
        """
        return len(self._conversation.outstanding)

    @property
    def queries_sent(self) -> int:
        """
        The number of queries sent so far, probes included.
        """
        return self._conversation.reply_count + len(self._conversation.outstanding)

    @property
    def answers(self) -> int:
        """
        The number of replies received so far, those to probes included.
        """
        return self._conversation.reply_count

    @property
    def is_open(self) -> bool:
        """
        Whether it takes queries, as far as its state is concerned.
        """
        return self.state < DRAINING

    def room(self) -> int:
        """
        Return how many queries may be sent now.
        """
        return 0 if self._is_blocked or self.state >= DRAINING else self._conversation.free_ids

    @property
    def peer(self) -> str:
        """
        The address and port of the upstream.
        """
        peer = self.transport.getPeer()
        return endpoint_text(peer.host, peer.port)

    def send(self, queries: Sequence[OutgoingQuery]) -> None:
        """
        Send queries in one write; the caller has checked ``room``.
        """
        self.last_used = self._now()
        if self._is_in_the_clear:  # impossible, and counted so that the metric shows it
            self._counters.plaintext += len(queries)
        self.transport.write(self._conversation.submit(queries))
        if self._write_now is not None:
            self._write_now()

    def send_probe(self) -> None:
        """
        Send the health probe.
        """
        self.probes += 1
        self.probe_sent_at = self._now()
        self.send([PROBE_QUERY])

    def enter(self, state: ConnectionState) -> None:
        """
        Change the state.

        :raises ForbiddenTransition: if ``connection_state`` does not allow it.
        """
        self.state = follow(self.state, state)

    def drain(self, end: ConnectionEnd) -> None:
        """
        Take no more queries; close, for this reason, after the last reply, or cut it after ``DRAIN_TIMEOUT``.
        """
        if self.state >= DRAINING:
            return
        if not self.outstanding:
            self.close(end)
            return
        self._drain(end)

    def retire(self, error: UpstreamError) -> list[Token]:
        """
        Take no more queries; return the tokens of those outstanding, now the caller's to finish.

        Late replies are still reported.  The connection closes after the last, or is cut after ``DRAIN_TIMEOUT`` with
        ``error``.
        """
        if self.state > DRAINING:
            return []
        self.enter(RETIRED)
        self._close_later(DRAIN_TIMEOUT, lambda: self.abort(error))
        return tokens_of(self._conversation.outstanding.values())

    def connectionMade(self) -> None:
        """
        The peer is verified, and the transport accepts queries.
        """
        self.enter(READY)
        self._is_in_the_clear = not hasattr(self.transport, "getPeerCertificate")
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        try:
            self._socket = self.transport.transport.getHandle()
        except AttributeError:  # no socket below it: a test in memory
            self._socket = None
        # Written at once; otherwise octets wait until the reactor finds the socket writable.
        self._write_now = getattr(self.transport.transport, "doWrite", None) if self._socket is not None else None
        if self._socket is not None:
            limit_unacknowledged(self._socket)
            # The server may hold the first reply back until its session tickets are acknowledged.
            self._ticket_timer = self._clock.callLater(TICKET_DELAY, self._acknowledge_now)
        self._idle_timer = self._clock.callLater(self._idle_timeout, self._judge_idleness)

    def dataReceived(self, data: bytes) -> None:
        """
        Report the replies in the octets of one read of the socket (see ``tls_reads``), together.
        """
        self.last_heard = self.last_used = self._now()
        if self._socket is not None:
            acknowledge_now(self._socket)
        answers = self._conversation.receive(data)
        if answers:
            _, reply = answers[-1]  # one of a read is enough: a server that sends the option repeats it
            if KEEPALIVE_HEAD in reply:
                self._note_keepalive(reply)
            self._observer.replies_received(self, answers)
            if self.state >= DRAINING and not self.outstanding:
                self.close(self._drained_for)
        if self._conversation.protocol_error and self._error is None:
            self.abort(BadReply("read", f"the upstream sent {self._conversation.protocol_error}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Report the end, once.
        """
        was_retired = self.state is RETIRED
        self.enter(CLOSED)
        self._write_now = None
        for timer in (self._idle_timer, self._close_timer, self._ticket_timer):
            cancel(timer)
        self._socket = None
        tokens = self._conversation.abandon()
        error = self._error or self._end_error(reason)
        self._observer.connection_lost(self, [] if was_retired else tokens, error, was_retired=was_retired)

    def _end_error(self, reason: Failure) -> UpstreamError:
        if self.ended_for:
            return ConnectionGone("read", f"closed here: {self.ended_for.replace('_', ' ')}")
        return lost(reason)

    def close(self, end: ConnectionEnd) -> None:
        """
        Close with a close_notify, within ``CLOSE_TIMEOUT``, for this reason; outstanding replies are not waited for.
        """
        if self.ended_for or self.state is CLOSED:
            return
        self.ended_for = end
        if self.state is not RETIRED:
            self.enter(CLOSING)
        self._write_now = None  # the reactor has to see the result of the last write
        self._close_later(CLOSE_TIMEOUT, self.transport.abortConnection)
        self.transport.unregisterProducer()  # a registered producer would delay the close without limit
        self.transport.loseConnection()

    def abort(self, error: UpstreamError) -> None:
        """
        Cut the connection at once, because of ``error``.
        """
        if self.state < RETIRED:
            self.enter(CLOSING)
        self._write_now = None
        self.ended_for = error.code
        self._error = self._error or error
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """
        Stop sending: the transport holds enough octets that the upstream has not read.
        """
        self._is_blocked = True

    def resumeProducing(self) -> None:
        """
        Send again: the transport accepts octets.
        """
        if self._is_blocked:
            self._is_blocked = False
            self._observer.connection_has_room(self)

    def stopProducing(self) -> None:
        """
        Do nothing: the transport is gone, and ``connectionLost`` follows.
        """

    def _acknowledge_now(self) -> None:
        if self._socket is not None:
            acknowledge_now(self._socket)

    def _note_keepalive(self, reply: bytes) -> None:
        """
        Use the idle timeout that the upstream grants, if it is shorter (RFC 7828 §3.2.2).
        """
        granted = keepalive_of(reply)
        if granted is None:
            return
        if granted:
            self._idle_timeout = min(self._idle_timeout, granted / 10 * _GRANTED_PART)
            if self._idle_timer is not None and self._idle_timer.active():
                self._idle_timer.reset(self._idle_timeout)
        elif self.state < DRAINING:  # 0: no more queries; close after the last reply
            self._drain(ConnectionEnd.ASKED_TO_CLOSE)

    def _drain(self, end: ConnectionEnd) -> None:
        self.enter(DRAINING)
        self._drained_for = end
        self._close_later(DRAIN_TIMEOUT, lambda: self.abort(Timeout("read", "no answer in time")))

    def _close_later(self, seconds: float, close: Callable[[], object]) -> None:
        """
        Call ``close`` after so many seconds, in place of what was to come.
        """
        cancel(self._close_timer)
        self._close_timer = self._clock.callLater(seconds, close)

    def _judge_idleness(self) -> None:
        left = self._idle_timeout - (self._now() - self.last_used)
        if self.outstanding:
            left = max(left, self._idle_timeout / 2)
        if left > _ROUNDING:
            self._idle_timer = self._clock.callLater(left, self._judge_idleness)
        else:
            self.close(ConnectionEnd.IDLE)
