"""
The TCP listener: one client's connection (RFC 7766).

Decides when a connection is read from, and when it ends.  Questions are handed on as they come, pipelined
and however the stream was cut; answers go out in the order they are ready, those ready together in one
write.

* So many questions may be outstanding; while they are, or while the client does not read its answers, it
  is not read from.
* It ends when it was idle too long, idle being: no whole question came, and no answer is owed (RFC 7766
  §6.2.3); when a client does not read; when a client has said it is done and has all its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.names.dns import DNSProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.neighbours import Source
from dotproxy.telemetry.counters import TCP
from dotproxy.wire.edns import KEEPALIVE, option, options_of
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import Peek


@implementer(IHalfCloseableProtocol, IPushProducer)
class StreamListener(DNSProtocol):
    """
    A twisted.names stream protocol that passes octets to its factory undecoded.

    Owns: its connection, and the questions read but not yet handed on.
    Ends when: the connection does.  Answers that come later are dropped.
    """

    kind = TCP
    is_stream = True
    takes_transfers = True
    transport: Any

    def __init__(self, factory: Any) -> None:
        super().__init__(factory)
        self._factory = factory
        self._deframer = Deframer()
        self._backlog: list[bytes] = []
        self._outstanding = 0
        self._client: tuple[str, int] = ("", 0)
        self._is_open = False
        self._has_asked_all = False
        self._is_blocked = False
        self._is_reading = True
        self._is_handing_on = False
        self._is_closing = False
        self._timer: IDelayedCall | None = None
        self._sources: set[Source] = set()
        self._write_now: Callable[[], object] = _nothing
        self.last_used = factory.now()

    @property
    def is_idle(self) -> bool:
        """
        Whether nothing is owed to the client.
        """
        return not self._outstanding and not self._backlog

    def connectionMade(self) -> None:
        """
        A client connected.
        """
        super().connectionMade()
        self._is_open = True
        peer = self.transport.getPeer()
        self._client = (peer.host, peer.port)
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        # Else what is written waits for the reactor to find that it can be.
        self._write_now = getattr(self.transport, "doWrite", _nothing)
        self._timer = self._factory.clock.callLater(self._factory.idle_timeout, self._judge_idleness)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The connection is gone, and with it whatever was not answered.
        """
        self._is_open = False
        self._backlog.clear()
        for source in tuple(self._sources):
            source.client_gone()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """
        Octets from the client.
        """
        questions = self._deframer.feed(data)
        if questions:
            self.last_used = self._factory.now()
            self._backlog += questions
            self._hand_on()

    def send_answers(self, answers: list[tuple[bytes, Any]]) -> None:
        """
        Send answers, all in one write.
        """
        self._outstanding -= len(answers)
        if not self._is_open:
            return
        self.last_used = self._factory.now()
        self.transport.write(b"".join([frame(octets) for octets, _ in answers]))
        self._write_now()
        if not self._is_handing_on:
            self._hand_on()

    def options_for(self, query: bytes, seen: Peek, client: Any) -> bytes:
        """
        Return how long the connection may be idle, if the client asks (RFC 7828 §3.3.2).
        """
        if self._factory.tells_idle_timeout:
            for code, _, _ in options_of(query, seen.opt_at, seen.opt_end):
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
            self.transport.write(b"".join([frame(octets) for octets in parts]))

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
        for source in tuple(self._sources):
            source.pause()
        self._read_or_not()

    def resumeProducing(self) -> None:
        """
        The client reads again.
        """
        self._is_blocked = False
        for source in tuple(self._sources):
            source.resume()
        self._hand_on()

    def stopProducing(self) -> None:
        """
        The connection is gone; ``connectionLost`` says the rest.
        """

    def close(self) -> None:
        """
        End the connection once what was written has gone out, which a client has a while to take.
        """
        if self._is_open and not self._is_closing:
            self._is_closing = True
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            self._timer = self._factory.clock.callLater(self._factory.idle_timeout, self.abort)
            self._write_now = _nothing  # the reactor has to see how the last write goes
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abort(self) -> None:
        """
        End the connection now.
        """
        if self._is_open:
            self._write_now = _nothing
            self.transport.abortConnection()

    def _hand_on(self) -> None:
        """
        Hand on as many questions as may be outstanding; read more, or not; end, if all is done.
        """
        self._is_handing_on = True
        while self._backlog and not self._is_blocked:
            room = self._factory.max_outstanding - self._outstanding
            if room <= 0:
                break
            batch, self._backlog = self._backlog[:room], self._backlog[room:]
            self._outstanding += len(batch)
            # In two steps: answers may come before the call returns, and change the count.
            silent = self._factory.questions_received(self, self._addressed(batch))
            self._outstanding -= silent
        self._is_handing_on = False
        self._read_or_not()
        self._end_if_done()

    def _addressed(self, queries: Sequence[bytes]) -> list[tuple[bytes, Any]]:
        """
        Return queries with what finds their client again.
        """
        client = self._client
        return [(octets, client) for octets in queries]

    def _read_or_not(self) -> None:
        should = not (self._is_blocked or self._backlog or self._outstanding >= self._factory.max_outstanding)
        if not self._is_open or self._has_asked_all or should == self._is_reading:
            return
        self._is_reading = should
        if should:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

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
            self.abort()
            return
        elif self.is_idle:
            self.close()
            return
        else:
            left = self._factory.idle_timeout
        self._timer = self._factory.clock.callLater(max(left, 0.01), self._judge_idleness)


def _nothing() -> None:
    pass
