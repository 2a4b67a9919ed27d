"""
Upstreams in memory: the other end of a verified connection, which answers well, wrongly, late or not at all.

Decides what an upstream says.  Half of all questions, by a checksum of theirs, get well-formed answers only: from what
was captured, or made up; for the others captured responses are changed at random.  Whatever is asked, a connection may
end, or bring what answers nothing.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from dotproxy.errors import Unreachable
from dotproxy.upstream.verification import Identity, VerifiedChain
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import question_of
from fuzz.mutate import mutated

#: How often what happens, of all questions.
_SILENT, _CLOSES, _STRAY, _BROKEN = 0.003, 0.0004, 0.005, 0.0001
#: Of all dials, how many fail.
_REFUSED = 0.05


def question_in(message: bytes) -> bytes:
    """
    Return what identifies the question of a message, b"" without one.
    """
    end = question_of(message)
    return message[12 : end - 4].lower() + message[end - 4 : end] if end else b""


def is_honest(question: bytes) -> bool:
    """
    Return whether a question gets well-formed answers only.
    """
    return not crc32(question) & 1


_BEGINS, _ENDS = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
IDENTITY = Identity(
    "dot.fuzz.example",
    "TLSv1.3",
    "TLS_AES_128_GCM_SHA256",
    resumed=False,
    chain=VerifiedChain((), _BEGINS, _ENDS, "CN=fuzz", is_root=True, verified_at=_BEGINS),
    not_after=_ENDS,
)


class Connection(StringTransport):
    """
    The transport of one connection, from its verified handshake on.
    """

    def __init__(self, server: Server, protocol: Any) -> None:
        super().__init__()
        self._server = server
        self._deframer = Deframer()
        self.protocol = protocol
        self.outbox = b""
        self.is_over = False
        self.transport = object()

    def write(self, data: bytes) -> None:
        """
        Queries.
        """
        for query in self._deframer.feed(data):
            self._server.asked(self, query)

    def deliver(self, chance: random.Random) -> None:
        """
        Bring what was said, cut anywhere.
        """
        data, self.outbox = self.outbox, b""
        while data and not self.is_over:
            size = len(data) if chance.random() < 0.7 else chance.randrange(1, len(data) + 1)
            self.protocol.dataReceived(data[:size])
            data = data[size:]

    def loseConnection(self) -> None:
        """
        Ended here.
        """
        self._server.clock.callLater(0.001, self.end, ConnectionDone())

    def abortConnection(self) -> None:
        """
        Cut here.
        """
        self._server.clock.callLater(0, self.end, ConnectionLost())

    def end(self, reason: Exception) -> None:
        """
        Tell the protocol that it is over, once.
        """
        if not self.is_over:
            self.is_over = True
            self._server.connections.remove(self)
            self.protocol.connectionLost(Failure(reason))

    def getPeer(self) -> Any:
        """
        Return the server's address.
        """
        return self._server.address

    def getPeerCertificate(self) -> None:
        """
        It is there: this is TLS.
        """

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001 (Twisted's signature)
        """
        Nothing to do.
        """

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: FBT001 (Twisted's signature)
        """
        Nothing to do.
        """


class Server:
    """
    One upstream's server, and the endpoint that leads to it; ``said`` counts its responses.  Of all dials the share
    ``refused`` fails.
    """

    def __init__(
        self,
        clock: IReactorTime,
        chance: random.Random,
        replies: dict[bytes, bytes],
        address: Any,
        refused: float = _REFUSED,
    ) -> None:
        self.clock = clock
        self.address = address
        self.connections: list[Connection] = []
        self.said = 0
        self._chance = chance
        self._refused = refused
        self._replies = replies
        self._captured = list(replies.values())

    def connect(self, factory: Any) -> Deferred[Any]:
        """
        Return a Deferred of a verified connection.
        """
        dialling: Deferred[Any] = Deferred(lambda _: calls.pop().cancel() if calls else None)

        def stands() -> None:
            calls.clear()
            if self._chance.random() < self._refused:
                dialling.errback(Unreachable("connect", "connection refused"))
                return
            protocol = factory.buildProtocol(None)
            protocol.identity = IDENTITY
            connection = Connection(self, protocol)
            self.connections.append(connection)
            protocol.makeConnection(connection)
            dialling.callback(protocol)

        calls = [self.clock.callLater(0.004, stands)]
        return dialling

    def asked(self, connection: Connection, query: bytes) -> None:
        """
        Say something, or nothing, to a query.
        """
        chance = self._chance
        what = chance.random()
        if what < _SILENT:
            return
        if what < _SILENT + _CLOSES:
            self.clock.callLater(0, connection.end, ConnectionDone())
            return
        reply = self.reply_to(query)
        said = frame(reply)
        if what > 1 - _STRAY:
            said = frame(mutated(chance.choice(self._captured), chance)) + said
        elif what > 1 - _STRAY - _BROKEN:
            said = mutated(said, chance)
        connection.outbox += said
        self.said += 1

    def deliver(self) -> None:
        """
        Bring all that was said.
        """
        for connection in tuple(self.connections):
            connection.deliver(self._chance)

    def reply_to(self, query: bytes) -> bytes:
        """
        Return the response to a query.
        """
        chance = self._chance
        end = question_of(query)
        question = question_in(query)
        head, asked = query[:2], query[12:end]
        if is_honest(question):
            known = self._replies.get(question)
            if known is not None:
                return head + known[2:12] + asked + known[end:]
            return head + b"\x81\x80\0\1\0\1\0\0\0\0" + asked + _record(chance)
        known = self._replies.get(question) if chance.random() < 0.5 else None
        known = known or chance.choice(self._captured)
        reply = head + known[2:12] + asked + known[question_of(known) or 12 :]
        return head + mutated(reply, chance)[2:] if chance.random() < 0.7 else reply


def _record(chance: random.Random) -> bytes:
    ttl = chance.choice((0, 1, 5, 60, 300)).to_bytes(4, "big")
    text = b"x" * chance.choice((4, 40, 250))
    rdata = bytes((len(text),)) + text
    return b"\xc0\x0c\0\x10\0\1" + ttl + len(rdata).to_bytes(2, "big") + rdata
