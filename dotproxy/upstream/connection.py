"""
One verified connection to an upstream: a conversation joined to a transport.

Decides when octets are written and when an idle connection is closed.  Which questions it is given, and
what becomes of answers, is its owner's business.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.errors import BadReply, ConnectionEnd, ConnectionGone, UpstreamError
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.upstream.spec import endpoint_text
from dotproxy.upstream.tls_errors import lost
from dotproxy.upstream.verification import Identity
from dotproxy.wire.conversation import Conversation
from dotproxy.wire.reply_options import KEEPALIVE_HEAD, keepalive_of

Token = Any
#: A token, a whole query message, and the offset after its question.
Question = tuple[Token, bytes, int]
Answer = tuple[Token, bytes]

#: A closing connection that lingers longer than this is cut.
CLOSE_TIMEOUT = 1.0

#: One that is asked nothing more may still answer what it was asked; after this long it is cut.
FINISH_TIMEOUT = 4.0

#: Of the idle timeout that an upstream grants, what is used: the rest is for the way there.
_OF_WHAT_IS_GRANTED = 0.9

#: So long after a handshake what the server says after it is acknowledged at once, in seconds.
_TICKETS = 0.002

#: What was sent and not acknowledged for so long, in milliseconds, ends a connection: its peer is gone.
USER_TIMEOUT = 10_000

#: What is left of a time and is less than this, in seconds, is an error of rounding.
_ROUNDING = 0.001

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)


class ConnectionObserver(Protocol):
    """
    Who a connection reports to.
    """

    def replies_received(self, connection: DotConnection, answers: list[Answer]) -> None:
        """
        Answers came; each question that is here is no longer outstanding.
        """

    def connection_lost(self, connection: DotConnection, tokens: list[Token], error: UpstreamError) -> None:
        """
        It is over, and these questions were outstanding on it.
        """

    def connection_has_room(self, connection: DotConnection) -> None:
        """
        It takes questions again after it did not.
        """


@implementer(IPushProducer)
class DotConnection(TwistedProtocol):
    """
    Owns: what is outstanding on its connection, until it hands it to its owner.
    Told by: its owner (``ask``, ``close``) and Twisted.
    Ends when: the connection does; ``connection_lost`` is then told exactly once.
    """

    transport: Any

    #: Set by the gate, before anything else happens.
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
        self._is_blocked = False
        self._is_ending = False
        self._error: UpstreamError | None = None
        self._idle_timer: IDelayedCall | None = None
        self._close_timer: IDelayedCall | None = None
        self._socket: socket.socket | None = None
        self._write_now: Callable[[], object] | None = None
        self.last_heard = self.last_used = now()
        #: Whether it is asked nothing more.
        self.is_closing = False
        #: How many probes are outstanding on it.
        self.probes = 0
        #: Whether it was we who ended it, and why: a ``ConnectionEnd``.
        self.is_ours_to_end = False
        self.ended_for = ""

    @property
    def outstanding(self) -> int:
        """
        How many questions have no answer yet.
        """
        return len(self._conversation.outstanding)

    @property
    def queries_sent(self) -> int:
        """
        How many questions it was asked so far.
        """
        return self._conversation.answers + len(self._conversation.outstanding)

    def pending_tokens(self) -> list[Token]:
        """
        What it was asked and has not answered, oldest first.
        """
        return [question[0] for question in self._conversation.outstanding.values()]

    @property
    def answers(self) -> int:
        """
        How many questions were answered over it.
        """
        return self._conversation.answers

    def room(self) -> int:
        """
        How many questions it takes now.
        """
        return 0 if self._is_blocked or self.is_closing else self._conversation.room

    @property
    def peer(self) -> str:
        """
        The address it goes to.
        """
        peer = self.transport.getPeer()
        return endpoint_text(peer.host, peer.port)

    def send(self, questions: Sequence[Question]) -> None:
        """
        Send questions, all in one write; there has to be ``room`` for them.
        """
        self.last_used = self._now()
        if self._is_in_the_clear:  # which cannot be: what is counted is that it never is
            self._counters.plaintext += len(questions)
        self.transport.write(self._conversation.submit(questions))
        if self._write_now is not None:
            self._write_now()

    def connectionMade(self) -> None:
        """
        The gate opened.
        """
        self._is_in_the_clear = not hasattr(self.transport, "getPeerCertificate")
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        try:
            self._socket = self.transport.transport.getHandle()
        except AttributeError:  # not a socket below: in memory, in a test
            self._socket = None
        # Else what is written waits for the reactor to find that it can be.
        self._write_now = getattr(self.transport.transport, "doWrite", None) if self._socket is not None else None
        if self._socket is not None and _USER_TIMEOUT is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, USER_TIMEOUT)
        if self._socket is not None:
            # A server's session tickets are no data of ours, but with Nagle on it holds the first answer behind them.
            self._clock.callLater(_TICKETS, self._quick_ack)
        self._idle_timer = self._clock.callLater(self._idle_timeout, self._judge_idleness)

    def dataReceived(self, data: bytes) -> None:
        """
        Octets from the upstream: the answers of one read of the socket, together (see ``records``).
        """
        self.last_heard = self.last_used = self._now()
        self._quick_ack()
        answers = self._conversation.receive(data)
        if answers:
            reply = answers[-1][1]  # one of a read will do: a server that grants a timeout does so again and again
            if KEEPALIVE_HEAD in reply:
                self._note_keepalive(reply)
            self._observer.replies_received(self, answers)
            if self.is_closing and not self.outstanding:
                self.close(ConnectionEnd.ASKED_TO_CLOSE)
        if self._conversation.broken and self._error is None:
            self.abort(BadReply("read", f"the upstream sent {self._conversation.broken}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        It is over.
        """
        self.is_closing = self._is_ending = True
        self._write_now = None
        for timer in (self._idle_timer, self._close_timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._socket = None
        tokens = self._conversation.condemn()
        self._observer.connection_lost(self, tokens, self._error or self._how_it_ended(reason))

    def _how_it_ended(self, reason: Failure) -> UpstreamError:
        return (
            ConnectionGone("read", f"closed here: {self.ended_for.replace('_', ' ')}")
            if self.ended_for
            else lost(reason)
        )

    def close(self, why: str) -> None:
        """
        End it politely, within ``CLOSE_TIMEOUT``, for one of ``ConnectionEnd``; what is outstanding is not waited for.
        """
        if self._is_ending:
            return
        self.ended_for = why
        self.is_closing = self._is_ending = self.is_ours_to_end = True
        self._write_now = None  # the reactor has to see how the last write goes
        if self._close_timer is not None and self._close_timer.active():
            self._close_timer.cancel()
        self._close_timer = self._clock.callLater(CLOSE_TIMEOUT, self.transport.abortConnection)
        self.transport.unregisterProducer()  # a registered one would hold the close up for ever
        self.transport.loseConnection()

    def abort(self, error: UpstreamError) -> None:
        """
        End it now, because of ``error``.
        """
        self.is_closing = self._is_ending = self.is_ours_to_end = True
        self._write_now = None
        self.ended_for = error.code
        self._error = self._error or error
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """
        The transport holds enough that the upstream has not read.
        """
        self._is_blocked = True

    def resumeProducing(self) -> None:
        """
        The transport takes octets again.
        """
        if self._is_blocked:
            self._is_blocked = False
            self._observer.connection_has_room(self)

    def stopProducing(self) -> None:
        """
        The transport is gone; ``connectionLost`` says the rest.
        """

    def _quick_ack(self) -> None:
        # An upstream with Nagle on holds its next answer until the last one is acknowledged; the kernel
        # forgets this option by itself, so it is set again after each read.
        if self._socket is not None and _QUICKACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _note_keepalive(self, reply: bytes) -> None:
        """
        Take note of how long the upstream keeps an idle connection (RFC 7828 §3.2.2).
        """
        granted = keepalive_of(reply)
        if granted is None:
            return
        if granted:
            self._idle_timeout = min(self._idle_timeout, granted / 10 * _OF_WHAT_IS_GRANTED)
            if self._idle_timer is not None and self._idle_timer.active():
                self._idle_timer.reset(self._idle_timeout)
        elif not self.is_closing:
            # It wants to be left: nothing more is asked, and it is closed after the last answer.
            self.is_closing = True
            self._close_timer = self._clock.callLater(FINISH_TIMEOUT, self.transport.abortConnection)

    def _judge_idleness(self) -> None:
        left = self._idle_timeout - (self._now() - self.last_used)
        if self.outstanding:
            left = max(left, self._idle_timeout / 2)
        if left > _ROUNDING:
            self._idle_timer = self._clock.callLater(left, self._judge_idleness)
        else:
            self.close("idle")
