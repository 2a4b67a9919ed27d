"""
Clients that ask over UDP at times fixed beforehand, whatever becomes of their queries, and keep exact books.

Decides when queries leave (evenly, or in bursts, at a rate) and what counts as what: each query is sent once, never
again, and ends as one of: an rcode, a wrong response (NOERROR without the right address, or for another question), or
lost (no response within ``PATIENCE``).  Times are from just before the query is handed to the kernel until the kernel
has the response (SO_TIMESTAMPNS), so that a client that has to wait for a processor does not count as a slow server.
"""

from __future__ import annotations

import gc
import selectors
import socket
import statistics
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.load import is_right
from dotproxy.wire.message import question_of

#: How long a client waits for a response, in seconds; stub resolvers wait 5.
PATIENCE = 6.0

NOERROR, SERVFAIL = 0, 2

#: From asm-generic/socket.h: when the kernel received a datagram, as two 64-bit numbers.  Python has no name for it.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")

#: Queries that left later than this, in seconds, are told of: the load was not what it should have been.
LATE = 0.02


@dataclass(frozen=True)
class Load:
    """
    What one client asks: ``query`` makes the octets of a numbered query, whose ID is that number.

    ``phase`` is when the first one leaves, in intervals between two queries; with a ``burst`` so many leave together.
    """

    rate: float
    seconds: float
    query: Callable[[int], bytes]
    phase: float = 0.0
    burst: int = 1

    @property
    def count(self) -> int:
        """
        How many queries there are; their IDs are all different.
        """
        return min(round(self.rate * self.seconds), 65536)


@dataclass
class Tally:
    """
    What became of the queries of one client.  ``times`` are those of every response that ended a query, in seconds;
    ``errors`` the responses with another rcode than NOERROR; ``surplus`` counts responses that ended none; ``late``
    queries that left more than ``LATE`` after they were due.
    """

    sent: int = 0
    rcodes: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    surplus: int = 0
    late: int = 0
    times: list[float] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)

    @property
    def good(self) -> int:
        """
        Queries with the right answer.
        """
        return self.rcodes[NOERROR]

    def percentile(self, percent: int) -> float | None:
        """
        How long that share of the answered queries took at most; None without responses.
        """
        if len(self.times) < 2:
            return self.times[0] if self.times else None
        return statistics.quantiles(self.times, n=100, method="inclusive")[percent - 1]

    def check(self) -> None:
        """
        Raise RuntimeError unless each query ended once.
        """
        ended = sum(self.rcodes.values()) + self.wrong + self.lost
        if ended != self.sent:
            raise RuntimeError(f"{self.sent} queries sent, {ended} ended")


class Client:
    """
    One client on a UDP socket of its own.
    """

    def __init__(self, port: int, load: Load) -> None:
        self.load = load
        self.tally = Tally()
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self._server = ("127.0.0.1", port)
        self._queries = [load.query(number) for number in range(load.count)]
        self._outstanding: dict[int, int] = {}
        self._in_order: deque[tuple[int, int]] = deque()

    def due(self, begin: int) -> Iterator[int]:
        """
        Yield when each query is to leave, in nanoseconds.
        """
        for number in range(self.load.count):
            first = number - number % self.load.burst
            yield begin + int((first + self.load.phase) / self.load.rate * 1e9)

    def send(self, number: int, due: int) -> None:
        """
        Send a query; the kernel's refusal to take it makes it lost.
        """
        now = time.time_ns()
        self._outstanding[number] = now
        self._in_order.append((now, number))
        self.tally.sent += 1
        self.tally.late += now - due > LATE * 1e9
        try:
            self.socket.sendto(self._queries[number], self._server)
        except OSError:
            del self._outstanding[number]
            self.tally.lost += 1

    def receive(self) -> None:
        """
        Take all responses there are.
        """
        while True:
            try:
                reply, ancillary, _, sender = self.socket.recvmsg(65535, 64)
            except BlockingIOError:
                return
            if sender == self._server and len(reply) >= 12:
                self._enter(reply, received_at(ancillary))

    def _enter(self, reply: bytes, received: int) -> None:
        number = int.from_bytes(reply[:2], "big")
        sent = self._outstanding.pop(number, None)
        if sent is None:
            self.tally.surplus += 1
            return
        self.tally.times.append((received - sent) / 1e9)
        query, rcode = self._queries[number], reply[3] & 15
        end = question_of(query)
        if reply[12:end] != query[12:end] or (rcode == NOERROR and not is_right(reply)):
            self.tally.wrong += 1
        else:
            self.tally.rcodes[rcode] += 1
            if rcode != NOERROR:
                self.tally.errors.append(reply)

    def expire(self, now: int) -> bool:
        """
        Give up on what was sent too long ago; return whether anything is still outstanding.
        """
        while self._in_order and (
            self._in_order[0][1] not in self._outstanding or now - self._in_order[0][0] > PATIENCE * 1e9
        ):
            if self._outstanding.pop(self._in_order.popleft()[1], None) is not None:
                self.tally.lost += 1
        return bool(self._outstanding)


def ask(clients: Sequence[Client]) -> None:
    """
    Let all clients ask, each at its own rate, until each query has ended; their tallies tell how.
    """
    begin = time.time_ns() + 100_000_000
    everything = ((due, number, client) for client in clients for number, due in enumerate(client.due(begin)))
    schedule = deque(sorted(everything, key=lambda each: each[0]))
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with selectors.DefaultSelector() as selector:
            for client in clients:
                selector.register(client.socket, selectors.EVENT_READ, client)
            _ask(selector, clients, schedule)
    finally:
        if was_enabled:
            gc.enable()
        for client in clients:
            client.socket.close()
    for client in clients:
        client.tally.check()


def _ask(selector: selectors.BaseSelector, clients: Sequence[Client], schedule: deque[tuple[int, int, Client]]) -> None:
    outstanding = True
    while schedule or outstanding:
        now = time.time_ns()
        while schedule and schedule[0][0] <= now:
            due, number, client = schedule.popleft()
            client.send(number, due)
        pause = min(0.05, max(0.0, (schedule[0][0] - time.time_ns()) / 1e9)) if schedule else 0.05
        for key, _ in selector.select(pause):
            key.data.receive()
        now = time.time_ns()
        outstanding = sum(client.expire(now) for client in clients) > 0


def received_at(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """
    When the kernel received a datagram, in nanoseconds of CLOCK_REALTIME; now, if it does not say.
    """
    for level, kind, octets in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack_from(octets)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return time.time_ns()
