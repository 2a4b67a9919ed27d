"""
A client whose questions come by chance, so many a second on average (a Poisson process), and that times each answer.

Decides when questions leave; dnsperf sends them evenly, and then two are hardly ever under way at once.  It matters:
Nagle's algorithm at an upstream holds an answer back only while the one before it is not acknowledged.  A client over
TLS acknowledges at once, to show what the upstream takes and not what Nagle's algorithm does.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import is_right
from dotproxy.testing.client import make_query
from dotproxy.wire.framing import Deframer, frame

#: What has no answer after this many seconds has none.
_PATIENCE = 1.0


class Datagrams:
    """
    Over UDP.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)

    def send(self, query: bytes) -> None:
        """
        Ask.
        """
        self.socket.send(query)

    def receive(self) -> Iterator[bytes]:
        """
        Yield what there is.
        """
        try:
            while True:
                yield self.socket.recv(4096)
        except BlockingIOError:
            return


class Tls:
    """
    Over one TLS connection, verified as a forwarder would.
    """

    def __init__(self, port: int, ca_file: Path) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: Any = ssl.create_default_context(cafile=str(ca_file)).wrap_socket(
            plain, server_hostname="dot.test"
        )
        self.socket.setblocking(False)
        self._deframer = Deframer()

    def send(self, query: bytes) -> None:
        """
        Ask.
        """
        self.socket.send(frame(query))

    def receive(self) -> Iterator[bytes]:
        """
        Yield what there is.
        """
        try:
            while octets := self.socket.recv(65536):
                yield from self._deframer.feed(octets)
        except ssl.SSLWantReadError:
            pass
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def latencies(client: Datagrams | Tls, rate: float, seconds: float, seed: int) -> tuple[list[float], int]:
    """
    Ask for names that nobody asked before; return what each good answer took, in seconds, and how many questions had
    none.
    """
    chance = random.Random(seed)
    asked: dict[int, float] = {}
    took: list[float] = []
    count = 0
    clock: Callable[[], float] = time.perf_counter
    due = begun = clock()
    end = begun + seconds
    while True:
        now = clock()
        if now >= due and due < end:
            query = make_query(f"t{seed}-{count:08}.lab.example", 1, ident=count & 0xFFFF)
            asked[count & 0xFFFF] = clock()
            client.send(query)
            count += 1
            due += chance.expovariate(rate)
            continue
        if (due >= end and not asked) or now > end + _PATIENCE:
            break
        wait = (due if due < end else end + _PATIENCE) - now
        if select.select([client.socket], [], [], max(0.0, wait))[0]:
            for reply in client.receive():
                sent = asked.pop(int.from_bytes(reply[:2], "big"), None)
                if sent is not None and is_right(reply):
                    took.append(clock() - sent)
    client.socket.close()
    return took, count - len(took)
