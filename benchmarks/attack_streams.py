"""
What an attacker does over many TCP connections at a time.

Decides, for each behaviour, what a connection sends when it is made, when answers come and each second, and whether it
is read.  A connection that the server ends is made anew after ``PAUSE``.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from typing import Self

from benchmarks.attack_queries import Packets
from dotproxy.wire.framing import frame

#: How long a connection is left alone that the server ended, in seconds.
PAUSE = 0.2

#: From linux/in.h: the port is chosen when the connection is made, so that there are enough of them.
_IP_BIND_ADDRESS_NO_PORT = 24

#: Sent with a reset when closed, so that no port is kept waiting.
_NO_LINGER = struct.pack("ii", 1, 0)

_WATCHED = select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP


class Stream:
    """
    One connection: what is still to be sent over it, and what was read and is no whole message yet.
    """

    def __init__(self, plain: socket.socket) -> None:
        self.socket = plain
        self.unsent: deque[bytes | memoryview] = deque()
        self.read = b""
        self.is_connected = False
        self.mask = 0


class Behaviour:
    """
    What all connections of an attack do: ``make`` has the queries, ``each`` says how many.
    """

    reads = True
    #: How often ``tick`` is called for each connection, in seconds; 0 for never.
    every = 0.0

    def __init__(self, make: Packets, each: int) -> None:
        self.make = make
        self.each = each
        self.number = 0

    def query(self) -> bytes:
        """
        The next query, framed.
        """
        self.number += 1
        return frame(self.make(self.number - 1))

    def begin(self) -> list[bytes]:
        """
        What a new connection sends.
        """
        return []

    def answered(self, count: int) -> list[bytes]:
        """
        What is sent for so many answers.
        """
        return []

    def tick(self) -> bytes:
        """
        What is sent now and then.
        """
        return b""

    @property
    def asked(self) -> int:
        """
        How many queries were to be sent so far.
        """
        return self.number


class NoRead(Behaviour):
    """
    Each connection asks ``each`` queries at once, and reads no answer.
    """

    reads = False

    def begin(self) -> list[bytes]:
        """
        All queries.
        """
        return [b"".join(self.query() for _ in range(self.each))]


class Owed(Behaviour):
    """
    Each connection waits for ``each`` answers; for one that came it asks again.
    """

    def begin(self) -> list[bytes]:
        """
        As many queries as may be outstanding.
        """
        return [b"".join(self.query() for _ in range(self.each))]

    def answered(self, count: int) -> list[bytes]:
        """
        A query for each.
        """
        return [b"".join(self.query() for _ in range(count))]


class Total(Behaviour):
    """
    ``each`` queries in all, as fast as they are taken.
    """

    def begin(self) -> list[bytes]:
        """
        A first one.
        """
        return self.more()

    def more(self) -> list[bytes]:
        """
        The next one, if there is one.
        """
        return [self.query()] if self.number < self.each else []


class Slow(Behaviour):
    """
    One octet of a query each second, on each connection.
    """

    every = 1.0

    def begin(self) -> list[bytes]:
        """
        The first octet of a length.
        """
        return [b"\0"]

    def tick(self) -> bytes:
        """
        Another octet: there is never a whole query.
        """
        self.number += 1
        return b"\xff" if self.number % 2 else b"\0"


class Half(Behaviour):
    """
    Half a query, and then nothing.
    """

    def begin(self) -> list[bytes]:
        """
        Its length, and half of it.
        """
        query = self.query()
        return [query[: len(query) // 2]]


class Octets(Owed):
    """
    Queries one after the other, each octet in a segment of its own.
    """

    def begin(self) -> list[bytes]:
        """
        The first query.
        """
        return [bytes((octet,)) for octet in self.query()]

    def answered(self, count: int) -> list[bytes]:
        """
        The next query.
        """
        return [bytes((octet,)) for _ in range(count) for octet in self.query()]


class Idle(Behaviour):
    """
    Connections over which nothing is sent.
    """


#: By the name of an attack.
BEHAVIOURS: dict[str, type[Behaviour]] = {
    "noread": NoRead,
    "owed": Owed,
    "pipeline": Owed,
    "total": Total,
    "slow": Slow,
    "half": Half,
    "octets": Octets,
    "idle": Idle,
}


class Swarm:
    """
    All connections of an attack.
    """

    def __init__(self, source: str, port: int, count: int, behaviour: Behaviour) -> None:
        self._source = source
        self._server = ("127.0.0.1", port)
        self._behaviour = behaviour
        self._streams: dict[int, Stream] = {}
        self._missing: deque[float] = deque([0.0] * count)
        self._epoll = select.epoll()
        self.connected = 0
        self.answers = 0

    @property
    def sent(self) -> int:
        """
        How many queries were handed to connections.
        """
        return self._behaviour.asked

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for stream in self._streams.values():
            stream.socket.close()
        self._epoll.close()

    def run(self, seconds: float) -> None:
        """
        Attack for so long.
        """
        stop = time.monotonic() + seconds
        tick = time.monotonic()
        while (now := time.monotonic()) < stop:
            while self._missing and self._missing[0] <= now:
                self._missing.popleft()
                self._connect(now)
            if self._behaviour.every and now >= tick:
                tick += self._behaviour.every
                for stream in list(self._streams.values()):
                    self._give(stream, [self._behaviour.tick()])
            for number, events in self._epoll.poll(min(0.05, max(0.001, stop - now)), 512):
                stream = self._streams[number]
                with contextlib.suppress(BlockingIOError):
                    if not self._turn(stream, events):
                        self._lose(number, now)

    def _connect(self, now: float) -> None:
        plain = socket.socket()
        plain.setblocking(False)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        plain.bind((self._source, 0))
        plain.connect_ex(self._server)
        stream = Stream(plain)
        self._streams[plain.fileno()] = stream
        stream.mask = select.EPOLLOUT | _WATCHED
        self._epoll.register(plain.fileno(), stream.mask)

    def _lose(self, number: int, now: float) -> None:
        self._epoll.unregister(number)
        self._streams.pop(number).socket.close()
        self._missing.append(now + PAUSE)

    def _turn(self, stream: Stream, events: int) -> bool:
        """
        Deal with what happened to a connection; return whether it stands.
        """
        try:
            if events & (select.EPOLLERR | select.EPOLLHUP):
                return False
            if events & select.EPOLLOUT and not stream.is_connected:
                stream.is_connected = True
                self.connected += 1
                stream.unsent.extend(self._behaviour.begin())
            if events & select.EPOLLOUT:
                self._send(stream)
            if events & select.EPOLLIN and not self._receive(stream):
                return False
            if events & select.EPOLLRDHUP and not events & select.EPOLLIN:
                return False
            self._watch(stream)
        except OSError:
            return False
        return True

    def _give(self, stream: Stream, octets: list[bytes]) -> None:
        if stream.is_connected:
            stream.unsent.extend(octets)
            with contextlib.suppress(OSError):
                self._send(stream)
                self._watch(stream)

    def _watch(self, stream: Stream) -> None:
        mask = _WATCHED | (select.EPOLLIN if self._behaviour.reads else 0) | (select.EPOLLOUT if stream.unsent else 0)
        if mask != stream.mask:
            stream.mask = mask
            self._epoll.modify(stream.socket.fileno(), mask)

    def _send(self, stream: Stream) -> None:
        with contextlib.suppress(BlockingIOError):
            while stream.unsent:
                octets = stream.unsent[0]
                count = stream.socket.send(octets)
                stream.unsent.popleft()
                if count < len(octets):
                    stream.unsent.appendleft(memoryview(octets)[count:])
                if not stream.unsent and isinstance(self._behaviour, Total):
                    stream.unsent.extend(self._behaviour.more())

    def _receive(self, stream: Stream) -> bool:
        octets = stream.socket.recv(262_144)
        if not octets:
            return False
        octets = stream.read + octets
        count = begin = 0
        for end in _ends(octets):
            count, begin = count + 1, end
        stream.read = octets[begin:]
        self.answers += count
        if count:
            stream.unsent.extend(self._behaviour.answered(count))
            self._send(stream)
        return True


def _ends(octets: bytes) -> Iterator[int]:
    """
    Where each whole message ends.
    """
    end, size = 0, len(octets)
    while end + 2 <= size and (end := end + 2 + (octets[end] << 8 | octets[end + 1])) <= size:
        yield end
