"""
The ways in which a server misbehaves, each a function of a connection and a question.

Every name has one address, made from the name, so that whoever asks knows the right answer.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.protocol import Protocol

from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import question_of

reactor: Any = the_reactor


def address_of(question: bytes) -> bytes:
    """
    The address of a name: four octets, the same for whoever asks.
    """
    return b"\x0a" + hashlib.sha256(question[:-4].lower()).digest()[:3]


def answer(query: bytes, rcode: int = 0) -> bytes:
    """
    The right answer, or an error.
    """
    end = question_of(query)
    records = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address_of(query[12:end]) if not rcode else b""
    flags = 0x8180 | rcode
    return query[:2] + struct.pack("!5H", flags, 1, 0 if rcode else 1, 0, 0) + query[12:end] + records


class Connection(Protocol):
    """
    One client.
    """

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        """
        A client connected.
        """
        self.number = self.factory.accepted
        self.deframer = Deframer()
        self.asked = self.answered = 0
        self.last = 0.0
        self.is_silent = self.is_over = False
        self.factory.connections.add(self)

    def connectionLost(self, reason: Any = None) -> None:
        """
        It is over.
        """
        self.is_over = True
        self.factory.connections.discard(self)

    def dataReceived(self, data: bytes) -> None:
        """
        Questions.
        """
        for query in self.deframer.feed(data):
            self.asked += 1
            self.last = reactor.seconds()
            if not self.is_silent and not self.is_over:
                self.factory.mode(self, query)

    def say(self, query: bytes, rcode: int = 0) -> None:
        """
        Answer, rightly.
        """
        self.send(answer(query, rcode))

    def send(self, message: bytes) -> None:
        """
        Send a message.
        """
        if not self.is_over and not self.is_silent:
            self.answered += 1
            self.transport.write(frame(message))

    def later(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """
        Do something later, if the connection still stands.
        """
        reactor.callLater(seconds, lambda: None if self.is_over else call(*args))

    def close(self) -> None:
        """
        End it, with a close_notify.
        """
        self.is_silent = True
        self.transport.loseConnection()

    def cut(self) -> None:
        """
        End it with a reset.
        """
        self.is_silent = True
        self.transport.abortConnection()

    def raw(self) -> Any:
        """
        The TCP connection below TLS.
        """
        return self.transport.transport


Mode = Callable[[Connection, bytes], None]
MODES: dict[str, Mode] = {}


def mode(function: Mode) -> Mode:
    """
    Enter a mode under its function's name.
    """
    MODES[function.__name__] = function
    return function


@mode
def healthy(client: Connection, query: bytes) -> None:
    """As it should be."""
    client.say(query)


@mode
def closes_each(client: Connection, query: bytes) -> None:
    """Closes after each answer."""
    client.say(query)
    client.close()


@mode
def closes_each_rudely(client: Connection, query: bytes) -> None:
    """Closes after each answer, without close_notify."""
    client.say(query)
    client.is_silent = True
    client.raw().loseConnection()


@mode
def closes_after_3(client: Connection, query: bytes) -> None:
    """Closes after three answers."""
    client.say(query)
    if client.answered == 3:
        client.close()


@mode
def closes_idle(client: Connection, query: bytes) -> None:
    """Closes when idle for 0.3 s; is asked in bursts."""
    client.say(query)
    client.later(0.3, lambda: client.close() if reactor.seconds() - client.last >= 0.29 else None)


@mode
def reset_odd(client: Connection, query: bytes) -> None:
    """Every other connection is reset in the middle of its first answer."""
    if client.number % 2:
        client.transport.write(frame(answer(query))[:20])
        client.later(0, client.cut)
        client.is_silent = True
    else:
        client.say(query)
        if client.answered >= 50:
            client.close()


@mode
def reset_always(client: Connection, query: bytes) -> None:
    """Every connection is reset in the middle of its first answer."""
    client.transport.write(frame(answer(query))[:20])
    client.is_silent = True
    client.later(0, client.cut)


@mode
def silent_after_1(client: Connection, query: bytes) -> None:
    """Answers the first question of a connection, then nothing."""
    client.say(query)
    client.is_silent = True


@mode
def silent_later(client: Connection, query: bytes) -> None:
    """Every two seconds all connections there are fall silent; new ones work."""
    client.say(query)


@mode
def silent_always(client: Connection, query: bytes) -> None:
    """Never answers."""


@mode
def silent_odd(client: Connection, query: bytes) -> None:
    """Every other connection never answers."""
    if not client.number % 2:
        client.say(query)
        if client.answered >= 300:
            client.close()


@mode
def late(client: Connection, query: bytes) -> None:
    """Answers after 0.8 s."""
    client.later(0.8, client.say, query)


@mode
def slow_tenth(client: Connection, query: bytes) -> None:
    """Takes two seconds over every tenth question."""
    client.later(2.0 if client.asked % 10 == 0 else 0.0, client.say, query)


@mode
def out_of_order(client: Connection, query: bytes) -> None:
    """Answers in any order, within 30 ms."""
    client.later(client.factory.chance.uniform(0, 0.03), client.say, query)


@mode
def twice(client: Connection, query: bytes) -> None:
    """Every answer twice."""
    client.say(query)
    client.say(query)


@mode
def stray_id(client: Connection, query: bytes) -> None:
    """Before each answer one under another ID."""
    right = answer(query)
    client.send(bytes((right[0] ^ 0x55, right[1])) + right[2:])
    client.send(right)


@mode
def other_question(client: Connection, query: bytes) -> None:
    """Before each answer one to another question under the same ID."""
    right = answer(query)
    client.send(right[:13] + bytes((right[13] ^ 0x01,)) + right[14:])
    client.send(right)


@mode
def garbage_frames(client: Connection, query: bytes) -> None:
    """Before each tenth answer a frame of random octets."""
    if client.asked % 10 == 0:
        client.transport.write(frame(client.factory.chance.randbytes(40)))
    client.say(query)


@mode
def garbage_octets(client: Connection, query: bytes) -> None:
    """Every other connection begins with random octets, so that frames are lost."""
    if client.number % 2 and not client.answered:
        client.transport.write(b"\xff" + client.factory.chance.randbytes(40))
    client.say(query)
    if client.answered >= 100:
        client.close()


@mode
def octet_by_octet(client: Connection, query: bytes) -> None:
    """Sends each octet in a TLS record of its own."""
    for octet in frame(answer(query)):
        client.transport.write(bytes((octet,)))


@mode
def no_pipelining(client: Connection, query: bytes) -> None:
    """Answers one after the other, each taking 2 ms."""
    begin = max(reactor.seconds(), getattr(client, "free", 0.0))
    client.free = begin + 0.002  # type: ignore[attr-defined]
    client.later(client.free - reactor.seconds(), client.say, query)  # type: ignore[attr-defined]


@mode
def one_at_a_time(client: Connection, query: bytes) -> None:
    """Answers one after the other, each taking 10 ms: 100 a second over a connection."""
    begin = max(reactor.seconds(), getattr(client, "free", 0.0))
    client.free = begin + 0.01  # type: ignore[attr-defined]
    client.later(client.free - reactor.seconds(), client.say, query)  # type: ignore[attr-defined]


@mode
def servfail_half(client: Connection, query: bytes) -> None:
    """SERVFAIL half of the time."""
    client.say(query, 2 if client.factory.chance.random() < 0.5 else 0)


@mode
def refuses(client: Connection, query: bytes) -> None:
    """REFUSED, always."""
    client.say(query, 5)


@mode
def drops_tenth(client: Connection, query: bytes) -> None:
    """Drops one question in ten."""
    if client.factory.chance.random() >= 0.1:
        client.say(query)


@mode
def flaps(client: Connection, query: bytes) -> None:
    """Is there for a second, and gone for the next."""
    client.say(query)


@mode
def truncates(client: Connection, query: bytes) -> None:
    """TC, over TLS."""
    right = answer(query)
    client.send(right[:2] + bytes((right[2] | 2,)) + right[3:])


@mode
def tls_1_2(client: Connection, query: bytes) -> None:
    """TLS 1.2 only."""
    client.say(query)


@mode
def no_tickets(client: Connection, query: bytes) -> None:
    """No session tickets; closes after 20 answers."""
    client.say(query)
    if client.answered == 20:
        client.close()


@mode
def alerts(client: Connection, query: bytes) -> None:
    """A fatal TLS alert in place of each twentieth answer."""
    if client.asked % 20 == 0:
        client.is_silent = True
        client.raw().write(b"\x15\x03\x03\0\2\2\x50")
        client.later(0.01, client.cut)
    else:
        client.say(query)


@mode
def half_closes(client: Connection, query: bytes) -> None:
    """Shuts its side after ten answers, and goes on reading."""
    client.say(query)
    if client.answered == 10:
        client.is_silent = True
        client.transport._flushSendBIO()
        client.transport._tlsConnection.shutdown()
        client.transport._flushSendBIO()


@mode
def slow_handshake(client: Connection, query: bytes) -> None:
    """Every handshake begins a second late; closes after 100 answers."""
    client.say(query)
    if client.answered == 100:
        client.close()


@mode
def keepalive_0(client: Connection, query: bytes) -> None:
    """Asks to be left with every answer (RFC 7828)."""
    right = answer(query)
    client.send(right[:11] + b"\1" + right[12:] + bytes.fromhex("00 0029 04d0 00000000 0006 000b 0002 0000"))


def is_bad(query: bytes) -> bool:
    """
    Whether a name is one of the two in a hundred at which some servers hang up.
    """
    return address_of(query[12 : question_of(query)])[3] < 5


@mode
def hangs_up(client: Connection, query: bytes) -> None:
    """Closes the connection at two names in a hundred."""
    if is_bad(query):
        client.close()
    else:
        client.say(query)


@mode
def hangs_up_rudely(client: Connection, query: bytes) -> None:
    """Resets the connection at two names in a hundred; others take 50 ms."""
    if is_bad(query):
        client.cut()
    else:
        client.later(0.05, client.say, query)


@mode
def no_handshake(client: Connection, query: bytes) -> None:
    """Accepts connections, and never shakes hands."""
