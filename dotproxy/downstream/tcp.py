"""
A client's TCP connection, as a listener of queries (RFC 7766).

Decides when a connection is read, when responses are written, and when the connection is closed.  Queries are
dispatched in turn with those of other connections (``round_robin``), a few at a time; responses are written in the
order they become ready, those ready together in one write.

* A connection is not read while its window of outstanding queries is full, while queries wait for their turn, or while
  the client does not read its responses.
* Responses that the client does not read are kept here and counted (``unread_responses``).
* A connection is closed when it was idle for the idle timeout, that is without a whole query and without an outstanding
  response (RFC 7766 §6.2.3); when the client reads nothing for that time; when the client has closed its side and has
  all its responses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.names.dns import DNSProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.downstream.interfaces import StreamTransport
from dotproxy.errors import ClientEnd
from dotproxy.forwarding.interfaces import Source
from dotproxy.policy.client import Client, ClientMessage
from dotproxy.policy.client_shares import ClientShare
from dotproxy.policy.stream_limits import INITIAL_BATCH, INITIAL_WINDOW, initial_window, next_batch
from dotproxy.telemetry.counters import TCP
from dotproxy.wire.edns import KEEPALIVE, option, options_of
from dotproxy.wire.framing import QueryDeframer, frame
from dotproxy.wire.message import QueryInfo

if TYPE_CHECKING:
    from dotproxy.downstream.server_factory import ListenerFactory

#: Octets that a transport reads at once, and buffers for a client that does not read before it pauses its producer.
_BUFFER_SIZE: Final = 16 << 10

#: Octets of unsent responses written at once.
_CHUNK: Final = 64 << 10


@implementer(IHalfCloseableProtocol, IPushProducer)
class TcpConnection(DNSProtocol):
    """
    A twisted.names stream protocol that passes octets to its factory undecoded.

    Owns: its transport, the queries received but not yet dispatched, and the responses that the client has not read.
    Told by: Twisted, ``RoundRobin`` (``take_turn``), the forwarder (``send_answers``), transfers (``send_parts``).
    Ends when: the transport is closed.  Responses that come later are dropped.
    """

    kind = TCP
    is_stream = True
    takes_transfers = True
    transport: StreamTransport  # type: ignore[assignment]  # Twisted has ITransport, which lacks most of it
    share: ClientShare

    def __init__(self, factory: ListenerFactory) -> None:
        super().__init__(factory)
        self.is_waiting = False
        self._factory = factory
        self._round_robin = factory.round_robin
        self._deframer = QueryDeframer()
        self._batch = INITIAL_BATCH
        self._window = INITIAL_WINDOW
        self._outstanding = 0
        self._client = Client("", 0)
        self._is_open = False
        self._is_half_closed = False
        self._is_blocked = False
        self._is_reading = True
        self._is_dispatching = False
        self._is_closing = False
        self._timer: IDelayedCall | None = None
        self._sources: set[Source] = set()
        self._write_now: Callable[[], object] = _no_write
        self._is_writing = False
        self._batch_octets = 0
        # Octets that the client has not read: those in the transport, and those kept here.
        self._octets_written = 0
        self._unsent: deque[bytes] = deque()
        self._octets_unsent = 0
        self.last_used = factory.now()

    @property
    def is_idle(self) -> bool:
        """
        Whether every query received has been answered.
        """
        return not (self._outstanding or self._is_blocked or self._deframer.has_query)

    def connectionMade(self) -> None:
        """
        Begin to serve a client.
        """
        super().connectionMade()
        self._is_open = True
        peer = self.transport.getPeer()
        self._client = Client(peer.host, peer.port)
        self.transport.setTcpNoDelay(True)
        self.transport.bufferSize = _BUFFER_SIZE
        self._window = initial_window(has_unread_peers=self._factory.now() < self.share.does_not_read_until)
        self.transport.registerProducer(self, True)
        # Twisted's TCP transport can write at once; otherwise a write waits for the next iteration of the reactor.
        self._write_now = getattr(self.transport, "doWrite", _no_write)
        self._timer = self._factory.clock.callLater(self._factory.idle_timeout, self._check_idle)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Forget the connection; responses to its queries are dropped.
        """
        self._release()
        for source in tuple(self._sources):
            source.client_gone()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """
        Take octets from the client.
        """
        self._deframer.feed(data)
        if self._deframer.has_query:
            self.last_used = self._factory.now()
            self._proceed(self.last_used)

    def take_turn(self) -> bool:
        """
        Dispatch a batch of queries; return whether more could be dispatched now.
        """
        room = self._free_window()
        if room > 0 and not self._is_blocked and self._is_open and not self._is_closing:
            batch = self._with_client(self._deframer.take(min(self._batch, room)))
            self._outstanding += len(batch)
            self._batch_octets = 0
            self._is_dispatching = True
            # In two steps: responses may be sent before the call returns, and change the number.
            unanswered = self._factory.handle_batch(self, batch)
            self._outstanding -= unanswered
            self._is_dispatching = False
            self._batch = next_batch(self._batch, self._batch_octets)
            if self._deframer.has_query and self._can_dispatch():
                return True
        self._adjust_reading()
        return False

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Send responses, all in one write.
        """
        self._outstanding -= len(answers)
        if not self._is_open:
            return
        self.last_used = self._factory.now()
        octets = b"".join([frame(octets) for octets, _ in answers])
        self._batch_octets += len(octets)
        self._write(octets)
        if not self._is_blocked:
            self._window += len(answers)
        if not self._is_dispatching:
            self._proceed(self.last_used)

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Return the idle timeout as an EDNS option, if the client sent that option (RFC 7828 §3.3.2).
        """
        if self._factory.tells_idle_timeout:
            for code, _, _ in options_of(query, info.opt_at, info.opt_end):
                if code == KEEPALIVE:
                    tenths = min(int(self._factory.idle_timeout * 10), 65535)
                    return option(KEEPALIVE, tenths.to_bytes(2, "big"))
        return b""

    def send_parts(self, parts: list[bytes], source: Source) -> None:
        """
        Send some messages of a response of many (RFC 5936 §2.2).
        """
        if self._is_open:
            self.last_used = self._factory.now()
            self._write(b"".join([frame(octets) for octets in parts]))

    def begin_parts(self, source: Source) -> None:
        """
        Begin a response of many messages: ``source`` is paused while the client does not read.
        """
        self._sources.add(source)
        if self._is_blocked:
            source.pause()

    def end_parts(self, source: Source) -> None:
        """
        End a response of many messages.
        """
        self._sources.discard(source)

    def readConnectionLost(self) -> None:
        """
        Note that the client sends no more queries; it still gets its responses (RFC 1035 §4.2.2).
        """
        self._is_half_closed = True
        self._close_if_done()

    def writeConnectionLost(self) -> None:
        """
        Close the connection: the client takes no more responses.
        """
        self.abort()

    def pauseProducing(self) -> None:
        """
        Stop reading: the client does not read its responses.
        """
        self._is_blocked = True
        if not self._is_writing:
            self._client_stopped_reading(_BUFFER_SIZE)

    def resumeProducing(self) -> None:
        """
        Write the responses kept for the client, which reads again; then read from it.
        """
        self._is_blocked = False
        self.last_used = self._factory.now()
        if self._is_writing:
            return
        while self._unsent and not self._is_blocked:
            octets = self._next_chunk()
            self._octets_unsent -= len(octets)
            self._write(octets)
        if not self._is_blocked:
            self._octets_written = 0
            self._factory.unread_responses.update(self, 0)
            for source in tuple(self._sources):
                source.resume()
            self._proceed(self._factory.now())

    def stopProducing(self) -> None:
        """
        Do nothing: ``connectionLost`` is called for the same event.
        """

    def close(self, reason: ClientEnd | None = None) -> None:
        """
        Close the connection once what was written is sent, and abort it if the client does not take that within the
        idle timeout.
        """
        if self._is_open and not self._is_closing:
            self._is_closing = True
            self._factory.count_end(reason)
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            self._timer = self._factory.clock.callLater(self._factory.idle_timeout, self.abort)
            self._write_now = _no_write  # the reactor has to learn whether the last write succeeds
            self.transport.unregisterProducer()
            self._is_blocked = False
            while self._unsent:
                self.transport.write(self._next_chunk())
            self.transport.loseConnection()

    def abort(self, reason: ClientEnd | None = None) -> None:
        """
        Close the connection at once.
        """
        if self._is_open:
            self._factory.count_end(reason)
            self._release()
            self.transport.abortConnection()

    def _release(self) -> None:
        """
        Give back what others could use: memory, the place in the table and in the queue.
        """
        self._is_open = False
        self._write_now = _no_write
        self._unsent.clear()
        self._octets_written = self._octets_unsent = 0
        self._factory.unread_responses.update(self, 0)
        self._round_robin.remove(self)
        self._factory.connections.remove(self)

    def _with_client(self, queries: Sequence[bytes]) -> list[ClientMessage]:
        """
        Return queries, each with the client its response goes to.
        """
        client = self._client
        return [(octets, client) for octets in queries]

    def _can_dispatch(self) -> bool:
        return self._is_open and not self._is_blocked and not self._is_closing and self._free_window() > 0

    def _free_window(self) -> int:
        """
        Return how many more queries may be outstanding.
        """
        window: int = min(self._window, self._factory.max_outstanding)
        return window - self._outstanding

    def _proceed(self, now: float) -> None:
        """
        Dispatch queries in turn, adjust reading, and close the connection if all is done.
        """
        if self._deframer.has_query and not (self.is_waiting or self._is_dispatching):
            self._round_robin.schedule(self, now)
            if not self.is_waiting:  # it has taken its turn, which adjusted reading
                return
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        """
        Read or stop reading, as the window allows; close the connection if all is done.
        """
        should_read = not (self._deframer.has_query or self._is_blocked or self._free_window() <= 0)
        if should_read != self._is_reading and self._is_open and not self._is_half_closed:
            self._is_reading = should_read
            if should_read:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()
        if self._is_half_closed:
            self._close_if_done()

    def _write(self, octets: bytes) -> None:
        """
        Write octets, or keep them until the client reads.
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
            self._client_stopped_reading(len(octets))

    def _client_stopped_reading(self, written: int) -> None:
        """
        Pause everything: the client does not read, and about ``written`` octets are in the transport.
        """
        self._octets_written = written
        for source in tuple(self._sources):
            source.pause()
        self._adjust_reading()
        self._note_unread()

    def _note_unread(self) -> None:
        self._factory.unread_responses.update(self, self._octets_written + self._octets_unsent, self._factory.now())

    def _next_chunk(self) -> bytes:
        """
        Take about ``_CHUNK`` octets of unsent responses.
        """
        pieces: list[bytes] = []
        size = 0
        while self._unsent and size < _CHUNK:
            piece = self._unsent.popleft()
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def _close_if_done(self) -> None:
        if self._is_half_closed and self.is_idle:
            self.close()

    def _check_idle(self) -> None:
        """
        Close the connection if it was idle for the idle timeout; else check again when that could next be so.
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
        self._timer = self._factory.clock.callLater(max(left, 0.01), self._check_idle)


def _no_write() -> None:
    pass
