"""
A client that asks at a steady rate, and counts what becomes of its questions.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dotproxy.testing.client import make_query
from dotproxy.wire.message import question_of
from tests.misbehaving.modes import address_of, is_bad

#: How long the client waits for an answer, in seconds.
PATIENCE = 6.0


@dataclass
class Counted:
    """
    What became of the questions.  Times are in seconds; ``answered_at`` are those of right answers; ``bad`` counts the
    names at which some servers hang up.
    """

    asked: int = 0
    bad: int = 0
    right: int = 0
    servfail: int = 0
    wrong: int = 0
    lost: int = 0
    times: list[float] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """
        How long that share of the answered questions took at most.
        """
        if len(self.times) < 2:
            return max(self.times, default=0.0)
        return statistics.quantiles(self.times, n=1000, method="inclusive")[int(share * 1000) - 1]


class Steady:
    """
    A client on a UDP socket of its own; every question it ever asks is for another name.
    """

    def __init__(self, client: socket.socket, host: str, port: int) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.connect((host, port))
        client.setblocking(False)
        self._client = client
        self._port = port
        self._number = 0
        self._wanted: dict[int, tuple[float, bytes, bytes]] = {}

    def ask(
        self,
        rate: float,
        seconds: float,
        events: Mapping[float, Callable[[], None]] | None = None,
        *,
        bursts: bool = False,
    ) -> Counted:
        """
        Ask so many questions a second for so long, and wait for what is still out.

        ``events`` happen so many seconds after the beginning; with ``bursts`` every second half of a second is quiet.
        """
        counted = Counted()
        coming = sorted((events or {}).items())
        total = int(rate * seconds)
        with selectors.DefaultSelector() as selector:
            selector.register(self._client, selectors.EVENT_READ)
            began = time.monotonic()
            while counted.asked < total or self._wanted:
                now = time.monotonic()
                if coming and now - began >= coming[0][0]:
                    coming.pop(0)[1]()
                is_quiet = bursts and (now - began) % 1.0 > 0.5
                while counted.asked < total and not is_quiet and counted.asked <= (now - began) * rate:
                    counted.bad += is_bad(self._send(now))
                    counted.asked += 1
                for ident in [ident for ident, (at, _, _) in self._wanted.items() if now - at > PATIENCE]:
                    del self._wanted[ident]
                    counted.lost += 1
                if selector.select(0.002):
                    self._receive(counted)
        return counted

    def _send(self, now: float) -> bytes:
        ident = self._number % 65536
        query = make_query(f"n{self._number}.{self._port}.misbehaving.example.", 1, ident=ident)
        self._number += 1
        self._client.send(query)
        question = query[12 : question_of(query)]
        self._wanted[ident] = (now, question, address_of(question))
        return query

    def _receive(self, counted: Counted) -> None:
        while True:
            try:
                reply = self._client.recv(65535)
            except BlockingIOError:
                return
            at, question, address = self._wanted.pop(reply[0] << 8 | reply[1])
            now = time.monotonic()
            counted.times.append(now - at)
            rcode = reply[3] & 15
            if rcode == 0 and reply[12 : 12 + len(question)] == question and address in reply:
                counted.right += 1
                counted.answered_at.append(now)
            elif rcode:
                counted.servfail += 1
            else:
                counted.wrong += 1
