"""
How often a name for which the upstream says SERVFAIL is asked of it, while clients ask again and again.

Decides over what they ask: UDP from one port, where all queries for a name may go to one worker, and TCP with a
connection for each query, where the kernel shares connections out.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.bad_upstreams import Scripted
from benchmarks.bench import Bench, Row, milliseconds, responses
from benchmarks.forwarders import Forwarder
from benchmarks.open_loop import PATIENCE, Client, Load, Tally, ask
from benchmarks.scripted import BAD_ZONE, Behaviour
from dotproxy.testing.client import make_query
from dotproxy.wire.framing import frame
from tests.integration.programs import read_message

_RATE, _SECONDS = 20.0, 3.0


def _query(transport: str, number: int) -> bytes:
    return make_query(f"{transport}.{BAD_ZONE}", 1, ident=number)


@dataclass(frozen=True)
class FailingName:
    """
    One name over UDP, and after that another one over TCP.
    """

    key: str = "h"
    title: str = "One name that the upstream fails, asked 20 times a second for 3 s"
    is_quick: bool = True
    is_general: bool = True
    head: ClassVar[Sequence[str]] = (
        *("UDP: responses", "UDP: p50 ms", "UDP: sends in all"),
        *("TCP: responses", "TCP: p50 ms", "TCP: sends in all"),
    )

    def measure(self, bench: Bench, forwarders: Sequence[Forwarder]) -> list[Row]:
        """
        Have forwarders asked, all at the same time.
        """
        upstreams = [
            bench.make_upstreams([lambda folder, certificate: Scripted(folder, certificate, Behaviour.SERVFAIL)])[0]
            for _ in forwarders
        ]
        peers = [bench.make_peer(forwarder, [own]) for forwarder, own in zip(forwarders, upstreams, strict=True)]
        clients = [Client(peer.port, Load(_RATE, _SECONDS, lambda number: _query("udp", number))) for peer in peers]
        with bench.running(upstreams):
            with bench.running(peers):
                ask(clients)
                over_tcp = _ask_over_tcp([peer.port for peer in peers])
            received = [upstream.received().names for upstream in upstreams]
        return [
            _row(client.tally, tally, names) for client, tally, names in zip(clients, over_tcp, received, strict=True)
        ]


def _row(udp: Tally, tcp: Tally, names: Counter[str]) -> Row:
    cells = []
    for transport, tally in (("udp", udp), ("tcp", tcp)):
        sends = names[f"{transport}.{BAD_ZONE}"]
        cells += [responses(tally), milliseconds(tally.percentile(50)), str(sends)]
    return Row(cells, f"{cells[2]} / {cells[5]}", udp.late)


def _ask_over_tcp(ports: Sequence[int]) -> list[Tally]:
    asked: list[list[Future[tuple[float, int]]]] = [[] for _ in ports]
    begin = time.monotonic()
    with ThreadPoolExecutor(64) as pool:
        for number in range(round(_RATE * _SECONDS)):
            time.sleep(max(0.0, begin + number / _RATE - time.monotonic()))
            for port, own in zip(ports, asked, strict=True):
                own.append(pool.submit(_ask_once, port, number))
    return [_counted(own) for own in asked]


def _counted(asked: Sequence[Future[tuple[float, int]]]) -> Tally:
    tally = Tally(sent=len(asked))
    for each in asked:
        try:
            took, rcode = each.result()
        except (OSError, EOFError):
            tally.lost += 1
        else:
            tally.times.append(took)
            tally.rcodes[rcode] += 1
    tally.check()
    return tally


def _ask_once(port: int, number: int) -> tuple[float, int]:
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(frame(_query("tcp", number)))
        reply = read_message(client)
    return time.monotonic() - begin, reply[3] & 15
