"""
The client that should notice nothing: 50 ordinary queries a second from an address of its own, over UDP or TCP.

Decides when its queries leave and what counts as what: each is sent once, never again, and ends as ``Outcome`` says.
Every other query is for one of a few names that are in the cache; the others are for names that nobody asked before.
Over UDP, times end when the kernel has the response (SO_TIMESTAMPNS); over TCP, when it was read.
"""

from __future__ import annotations

import enum
import selectors
import socket
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.load import is_right
from benchmarks.open_loop import LATE, SO_TIMESTAMPNS, received_at
from dotproxy.testing.client import make_query
from dotproxy.wire.framing import frame
from dotproxy.wire.message import question_of

#: Where the client is.
ADDRESS = "127.0.0.77"

RATE = 50

#: How long it waits for a response, in seconds, as stub resolvers do.
PATIENCE = 5.0

#: Served as before the attack: a second in which every query was answered, and 99 % of them within this, in seconds.
NORMAL = 0.05

#: How many names are asked again and again.
CACHED = 20

_IP_BIND_ADDRESS_NO_PORT = 24


class Outcome(enum.Enum):
    """
    How a query ended.
    """

    PENDING = "pending"
    NOERROR = "NOERROR"  # with the right address
    SERVFAIL = "SERVFAIL"
    OTHER = "other"  # another rcode, a wrong answer, or TC
    LOST = "lost"  # no response, or the connection was refused or closed


@dataclass(slots=True)
class Asked:
    """
    A query: when it was sent, in seconds of CLOCK_MONOTONIC, how it ended, and after how many seconds.
    """

    query: bytes
    sent: float
    outcome: Outcome = Outcome.PENDING
    took: float = 0.0
    wall: int = 0

    def end(self, reply: bytes, took: float, is_good: Callable[[bytes], bool]) -> None:
        """
        Enter a response.
        """
        self.took = took
        end = question_of(self.query)
        if reply[12:end] != self.query[12:end] or reply[2] & 2:
            self.outcome = Outcome.OTHER
        elif reply[3] & 15 == 2:
            self.outcome = Outcome.SERVFAIL
        else:
            self.outcome = Outcome.NOERROR if is_good(reply) else Outcome.OTHER


def cached_names(domain: str) -> list[str]:
    """
    The names that are to be in the cache.
    """
    return [f"cached{number:02}.{domain}" for number in range(CACHED)]


class GoodClient:
    """
    What its transports have in common: the plan, and the books.  ``late`` counts queries that left more than ``LATE``
    after they were due.
    """

    via = ""

    def __init__(self, port: int, domain: str, is_good: Callable[[bytes], bool] = is_right) -> None:
        self.asked: list[Asked] = []
        self.late = 0
        self.server = ("127.0.0.1", port)
        self.is_good = is_good
        self._domain = domain
        self._cached = cached_names(domain)
        self._waiting: deque[Asked] = deque()
        self._begin = 0.0

    def open(self, selector: selectors.BaseSelector) -> None:
        """
        Begin now.
        """
        self._selector = selector
        self._begin = time.monotonic()

    def close(self) -> None:
        """
        Close what is open.
        """

    @property
    def due(self) -> float:
        """
        When the next query is to be sent.
        """
        return self._begin + len(self.asked) / RATE

    def ask(self) -> None:
        """
        Send the next query.
        """
        number = len(self.asked)
        name = self._cached[number // 2 % CACHED] if number % 2 else f"{self.via}{number:06}.{self._domain}"
        due = self.due
        asked = Asked(make_query(name.replace(" ", "-"), 1, ident=number & 0xFFFF), time.monotonic())
        self.late += asked.sent - due > LATE
        asked.wall = time.time_ns()
        self.asked.append(asked)
        self._waiting.append(asked)
        try:
            self.send(asked)
        except OSError:
            asked.outcome = Outcome.LOST

    def send(self, asked: Asked) -> None:
        """
        Send a query.
        """
        raise NotImplementedError

    def expire(self, now: float) -> int:
        """
        Give up on what was sent too long ago; return how many queries still wait.
        """
        while self._waiting and (
            self._waiting[0].outcome is not Outcome.PENDING or now - self._waiting[0].sent > PATIENCE
        ):
            asked = self._waiting.popleft()
            if asked.outcome is Outcome.PENDING:
                asked.outcome = Outcome.LOST
        return len(self._waiting)


class OverUdp(GoodClient):
    """
    One socket.
    """

    via = "udp"

    def open(self, selector: selectors.BaseSelector) -> None:
        """
        Bind the socket.
        """
        super().open(selector)
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((ADDRESS, 0))
        self._socket.setblocking(False)
        selector.register(self._socket, selectors.EVENT_READ, self._receive)

    def close(self) -> None:
        """
        Close the socket.
        """
        self._socket.close()

    def send(self, asked: Asked) -> None:
        """
        As one datagram.
        """
        self._socket.sendto(asked.query, self.server)

    def _receive(self) -> None:
        try:
            while True:
                reply, ancillary, _, sender = self._socket.recvmsg(65535, 64)
                if sender == self.server and len(reply) >= 12:
                    self._enter(reply, received_at(ancillary))
        except (BlockingIOError, ConnectionRefusedError):
            return

    def _enter(self, reply: bytes, received: int) -> None:
        number = reply[0] << 8 | reply[1]
        if number < len(self.asked) and self.asked[number].outcome is Outcome.PENDING:
            asked = self.asked[number]
            asked.end(reply, (received - asked.wall) / 1e9, self.is_good)


class _Stream:
    """
    A TCP connection of the client.
    """

    def __init__(self, owner: OverTcp) -> None:
        self._owner = owner
        self._read = b""
        self._unsent = b""
        self.waiting: dict[int, Asked] = {}
        self.is_open = True
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((ADDRESS, 0))
        self.socket.connect_ex(owner.server)
        owner.selector.register(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self.turn)

    def send(self, asked: Asked) -> None:
        """
        Send a query as soon as the connection stands.
        """
        self.waiting[asked.query[0] << 8 | asked.query[1]] = asked
        self._unsent += frame(asked.query)
        self._owner.selector.modify(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self.turn)

    def turn(self) -> None:
        """
        Write and read what can be.
        """
        try:
            if self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            if not self._unsent:
                self._owner.selector.modify(self.socket, selectors.EVENT_READ, self.turn)
            octets = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if not octets:
            self.close()
            return
        self._read += octets
        while len(self._read) >= 2 and len(self._read) >= (end := 2 + int.from_bytes(self._read[:2], "big")):
            reply, self._read = self._read[2:end], self._read[end:]
            asked = self.waiting.pop(int.from_bytes(reply[:2], "big"), None)
            if asked is not None and asked.outcome is Outcome.PENDING and len(reply) >= 12:
                asked.end(reply, time.monotonic() - asked.sent, self._owner.is_good)
        if not self.waiting and not self._owner.is_kept:
            self.close()

    def close(self) -> None:
        """
        Close it; what is still waiting has no response.
        """
        if self.is_open:
            self.is_open = False
            self._owner.selector.unregister(self.socket)
            self.socket.close()
        for asked in self.waiting.values():
            if asked.outcome is Outcome.PENDING:
                asked.outcome = Outcome.LOST
        self.waiting.clear()


class OverTcp(GoodClient):
    """
    A connection for each query.
    """

    via = "tcp"
    is_kept = False

    def open(self, selector: selectors.BaseSelector) -> None:
        """
        There is no connection yet.
        """
        super().open(selector)
        self.selector = selector
        self._streams: deque[tuple[float, _Stream]] = deque()

    def close(self) -> None:
        """
        Close all connections.
        """
        for _, stream in self._streams:
            stream.close()

    def send(self, asked: Asked) -> None:
        """
        Over a new connection.
        """
        stream = _Stream(self)
        self._streams.append((asked.sent, stream))
        stream.send(asked)

    def expire(self, now: float) -> int:
        """
        Close connections over which nothing came.
        """
        while self._streams and (not self._streams[0][1].is_open or now - self._streams[0][0] > PATIENCE):
            self._streams.popleft()[1].close()
        return super().expire(now)


class OverKeptTcp(OverTcp):
    """
    One connection for all queries; another one only when that was closed.
    """

    via = "tcp kept"
    is_kept = True

    def send(self, asked: Asked) -> None:
        """
        Over the connection there is.
        """
        if not self._streams or not self._streams[-1][1].is_open:
            self._streams.append((asked.sent, _Stream(self)))
        self._streams[-1][1].send(asked)

    def expire(self, now: float) -> int:
        """
        Leave the connection open.
        """
        return GoodClient.expire(self, now)


#: By what a row calls them.
TRANSPORTS: dict[str, type[GoodClient]] = {each.via: each for each in (OverUdp, OverTcp, OverKeptTcp)}


@dataclass
class Books:
    """
    What became of the queries sent in some time.
    """

    asked: Sequence[Asked]

    @property
    def outcomes(self) -> Counter[Outcome]:
        """
        How many ended how.
        """
        return Counter(each.outcome for each in self.asked)

    def percentile(self, percent: int) -> float | None:
        """
        How long that share of the answered queries took at most, in seconds; None without responses.
        """
        times = [each.took for each in self.asked if each.outcome is not Outcome.LOST]
        if len(times) < 2:
            return times[0] if times else None
        return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]

    @property
    def is_normal(self) -> bool:
        """
        Whether all were answered, and fast.
        """
        return all(each.outcome is Outcome.NOERROR for each in self.asked) and (self.percentile(99) or NORMAL) < NORMAL


def normal_after(asked: Sequence[Asked], end: float) -> float | None:
    """
    Return how many seconds after ``end`` the first second begins in which all is as it should be; None if none did.
    """
    later = [each for each in asked if each.sent >= end]
    for first in range(len(later) - RATE + 1):
        if Books(later[first : first + RATE]).is_normal:
            return later[first].sent - end
    return None
