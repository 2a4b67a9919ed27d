"""
The TCP listener: one client's connection (RFC 7766).

Decides when a connection is read from, what is written to it when, and when it ends.  Queries are handed on in turn
with those of other connections, a few at a time, however the stream was cut; responses go out in the order they are
ready, those ready together in one write.

* So many queries may be outstanding; while they are, while queries wait for their turn, or while the client does not
  read its responses, it is not read from.
* What the client does not read is kept here, and counted (``unread``).
* It ends when it was idle too long, idle being: no whole query came, and no response is owed (RFC 7766 §6.2.3); when a
  client does not read; when a client has said it is done and has all its responses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.names.dns import DNSProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.errors import ClientEnd
from dotproxy.forwarding.interfaces import Source
from dotproxy.policy.client import Client, ClientMessage
from dotproxy.policy.client_shares import ClientShare
from dotproxy.policy.stream_limits import FIRST_BATCH, FIRST_WINDOW, first_window, next_batch
from dotproxy.telemetry.counters import TCP
from dotproxy.wire.edns import KEEPALIVE, option, options_of
from dotproxy.wire.framing import QueryDeframer, frame
from dotproxy.wire.message import QueryInfo

#: Octets that a transport reads at once, and keeps for a client that does not read before it says so.
_BUFFER_SIZE: Final = 16 << 10

#: Octets that were kept and are written at once.
_PIECE: Final = 64 << 10


@implementer(IHalfCloseableProtocol, IPushProducer)
class TcpConnection(DNSProtocol):
    """
    A twisted.names stream protocol that passes octets to its factory undecoded.

    Owns: its connection, the queries read but not yet handed on, and the responses that the client does not read yet.
    Told by: Twisted, ``RoundRobin`` (``take_turn``), the forwarder (``send_answers``), transfers (``send_parts``).
    Ends when: the connection does.  Responses that come later are dropped.
    """

    kind = TCP
    is_stream = True
    takes_transfers = True
    transport: Any
    share: ClientShare

    def __init__(self, factory: Any) -> None:
        super().__init__(factory)
        self.is_waiting = False
        self._factory = factory
        self._turns = factory.turns
        self._deframer = QueryDeframer()
        self._batch = FIRST_BATCH
        self._window = FIRST_WINDOW
        self._outstanding = 0
        self._client = Client("", 0)
        self._is_open = False
        self._has_asked_all = False
        self._is_blocked = False
        self._is_reading = True
        self._is_handing_on = False
        self._is_closing = False
        self._timer: IDelayedCall | None = None
        self._sources: set[Source] = set()
        self._write_now: Callable[[], object] = _nothing
        self._is_writing = False
        self._octets_at_once = 0
        # What the client does not read: first in the transport, then here.
        self._octets_written = 0
        self._unsent: deque[bytes] = deque()
        self._octets_unsent = 0
        self.last_used = factory.now()

    @property
    def is_idle(self) -> bool:
        """
        Whether nothing is owed to the client.
        """
        return not (self._outstanding or self._is_blocked or self._deframer.has_query)

    def connectionMade(self) -> None:
        """
        A client connected.
        """
        super().connectionMade()
        self._is_open = True
        peer = self.transport.getPeer()
        self._client = Client(peer.host, peer.port)
        self.transport.setTcpNoDelay(True)
        self.transport.bufferSize = _BUFFER_SIZE
        self._window = first_window(does_not_read=self._factory.now() < self.share.does_not_read_until)
        self.transport.registerProducer(self, True)
        # Else what is written waits for the reactor to find that it can be.
        self._write_now = getattr(self.transport, "doWrite", _nothing)
        self._timer = self._factory.clock.callLater(self._factory.idle_timeout, self._judge_idleness)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection is gone, and with it whatever was not answered.
        """
        self._let_go()
        for source in tuple(self._sources):
            source.client_gone()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """
        Octets from the client.
        """
        self._deframer.feed(data)
        if self._deframer.has_query:
            self.last_used = self._factory.now()
            self._go_on(self.last_used)

    def take_turn(self) -> bool:
        """
        Hand on a batch of queries; return whether there are more that could be handed on now.
        """
        room = self._room()
        if room > 0 and not self._is_blocked and self._is_open and not self._is_closing:
            batch = self._addressed(self._deframer.take(min(self._batch, room)))
            self._outstanding += len(batch)
            self._octets_at_once = 0
            self._is_handing_on = True
            # In two steps: answers may come before the call returns, and change the count.
            silent = self._factory.handle_batch(self, batch)
            self._outstanding -= silent
            self._is_handing_on = False
            self._batch = next_batch(self._batch, self._octets_at_once)
            if self._deframer.has_query and self._can_hand_on():
                return True
        self._settle()
        return False

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Send answers, all in one write.
        """
        self._outstanding -= len(answers)
        if not self._is_open:
            return
        self.last_used = self._factory.now()
        octets = b"".join([frame(octets) for octets, _ in answers])
        self._octets_at_once += len(octets)
        self._write(octets)
        if not self._is_blocked:
            self._window += len(answers)
        if not self._is_handing_on:
            self._go_on(self.last_used)

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Return how long the connection may be idle, if the client asks (RFC 7828 §3.3.2).
        """
        if self._factory.tells_idle_timeout:
            for code, _, _ in options_of(query, info.opt_at, info.opt_end):
                if code == KEEPALIVE:
                    tenths = min(int(self._factory.idle_timeout * 10), 65535)
                    return option(KEEPALIVE, tenths.to_bytes(2, "big"))
        return b""

    def send_parts(self, parts: list[bytes], source: Source) -> None:
        """
        Send messages of an answer of which more will come.
        """
        if self._is_open:
            self.last_used = self._factory.now()
            self._write(b"".join([frame(octets) for octets in parts]))

    def begin_parts(self, source: Source) -> None:
        """
        An answer of many messages begins; it comes no faster than the client reads.
        """
        self._sources.add(source)
        if self._is_blocked:
            source.pause()

    def end_parts(self, source: Source) -> None:
        """
        It is over.
        """
        self._sources.discard(source)

    def readConnectionLost(self) -> None:
        """
        The client has asked all it will; it still gets its answers (RFC 1035 §4.2.2).
        """
        self._has_asked_all = True
        self._end_if_done()

    def writeConnectionLost(self) -> None:
        """
        The client takes no more answers.
        """
        self.abort()

    def pauseProducing(self) -> None:
        """
        The client does not read: until it does, it is not read from either.
        """
        self._is_blocked = True
        if not self._is_writing:
            self._block(_BUFFER_SIZE)

    def resumeProducing(self) -> None:
        """
        The client reads again: what was kept for it goes out before it is read from.
        """
        self._is_blocked = False
        self.last_used = self._factory.now()
        if self._is_writing:
            return
        while self._unsent and not self._is_blocked:
            octets = self._next_piece()
            self._octets_unsent -= len(octets)
            self._write(octets)
        if not self._is_blocked:
            self._octets_written = 0
            self._factory.unread.note(self, 0)
            for source in tuple(self._sources):
                source.resume()
            self._go_on(self._factory.now())

    def stopProducing(self) -> None:
        """
        The connection is gone; ``connectionLost`` says the rest.
        """

    def close(self, reason: ClientEnd | None = None) -> None:
        """
        End the connection once what was written has gone out, which a client has a while to take.
        """
        if self._is_open and not self._is_closing:
            self._is_closing = True
            self._factory.count_end(reason)
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            self._timer = self._factory.clock.callLater(self._factory.idle_timeout, self.abort)
            self._write_now = _nothing  # the reactor has to see how the last write goes
            self.transport.unregisterProducer()
            self._is_blocked = False
            while self._unsent:
                self.transport.write(self._next_piece())
            self.transport.loseConnection()

    def abort(self, reason: ClientEnd | None = None) -> None:
        """
        End the connection now.
        """
        if self._is_open:
            self._factory.count_end(reason)
            self._let_go()
            self.transport.abortConnection()

    def _let_go(self) -> None:
        """
        Hold nothing any more that others could have.
        """
        self._is_open = False
        self._write_now = _nothing
        self._unsent.clear()
        self._octets_written = self._octets_unsent = 0
        self._factory.unread.note(self, 0)
        self._turns.leave(self)
        self._factory.connections.remove(self)

    def _addressed(self, queries: Sequence[bytes]) -> list[ClientMessage]:
        """
        Return queries with what finds their client again.
        """
        client = self._client
        return [(octets, client) for octets in queries]

    def _can_hand_on(self) -> bool:
        return self._is_open and not self._is_blocked and not self._is_closing and self._room() > 0

    def _room(self) -> int:
        """
        Return how many more queries may be in flight.
        """
        window: int = min(self._window, self._factory.max_outstanding)
        return window - self._outstanding

    def _go_on(self, now: float) -> None:
        """
        Hand on queries that wait, in turn; read more, or not; end, if all is done.
        """
        if self._deframer.has_query and not (self.is_waiting or self._is_handing_on):
            self._turns.begin(self, now)
            if not self.is_waiting:  # it has taken its turn, and settled
                return
        self._settle()

    def _settle(self) -> None:
        """
        Read more, or not; end, if all is done.
        """
        should = not (self._deframer.has_query or self._is_blocked or self._room() <= 0)
        if should != self._is_reading and self._is_open and not self._has_asked_all:
            self._is_reading = should
            if should:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()
        if self._has_asked_all:
            self._end_if_done()

    def _write(self, octets: bytes) -> None:
        """
        Write, or keep until the client reads.
        """
        if self._is_blocked:
            self._unsent.append(octets)
            self._octets_unsent += len(octets)
            self._note_unread()
            return
        self._is_writing = True
        self.transport.write(octets)
        self._write_now()
        self._is_writing = False
        if self._is_blocked:
            self._block(len(octets))

    def _block(self, written: int) -> None:
        """
        The client does not read, and about so many octets are in the transport.
        """
        self._octets_written = written
        for source in tuple(self._sources):
            source.pause()
        self._settle()
        self._note_unread()

    def _note_unread(self) -> None:
        self._factory.unread.note(self, self._octets_written + self._octets_unsent, self._factory.now())

    def _next_piece(self) -> bytes:
        """
        Take some of what was kept.
        """
        pieces = [self._unsent.popleft()]
        size = len(pieces[0])
        while self._unsent and size < _PIECE:
            pieces.append(self._unsent.popleft())
            size += len(pieces[-1])
        return b"".join(pieces)

    def _end_if_done(self) -> None:
        if self._has_asked_all and self.is_idle:
            self.close()

    def _judge_idleness(self) -> None:
        """
        Look again when the connection could next have been idle for long enough.
        """
        left = self.last_used + self._factory.idle_timeout - self._factory.now()
        if left > 0:
            pass
        elif self._is_blocked:
            self.abort(ClientEnd.NOT_READ)
            return
        elif self.is_idle:
            self.close(ClientEnd.IDLE)
            return
        else:
            left = self._factory.idle_timeout
        self._timer = self._factory.clock.callLater(max(left, 0.01), self._judge_idleness)


def _nothing() -> None:
    pass
