"""
How often an upstream that cannot be used is dialled, and how soon clients are told.

Decides what is asked: four names one after the other, as by four runs of dig, and then names at a steady rate.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.bad_upstreams import MakeUpstream, Refusing, Scripted, Upstream
from benchmarks.bench import Bench, Row, milliseconds, responses
from benchmarks.forwarders import Forwarder
from benchmarks.open_loop import Client, Load, Tally, ask
from benchmarks.scripted import Behaviour
from dotproxy.testing.certificates import Authority, Issued
from dotproxy.testing.client import make_query

#: How long dig waits for a response, and how many names it is asked for.
_DIG_TIMEOUT, _DIGS = 5.0, 4

#: How many queries a second in the steady state.
_RATE = 10.0


def _untrusted(folder: Path, certificate: Issued) -> Upstream:
    return Scripted(folder, Authority().issue(["dot.test"]), Behaviour.ANSWER)


def _scripted(behaviour: Behaviour, tls: str) -> MakeUpstream:
    return lambda folder, certificate: Scripted(folder, certificate, behaviour, tls=tls)


@dataclass(frozen=True)
class Dials:
    """
    One kind of upstream; ``seconds`` is how long the steady state is watched, of which the second half counts.
    """

    key: str
    title: str
    upstream: MakeUpstream
    seconds: float
    is_quick: bool
    is_general: bool
    head: ClassVar[Sequence[str]] = (
        *("dials before", "4 digs: responses", "4 digs: ms each", "4 digs: dials"),
        *("10 q/s: responses", "10 q/s: p50 ms", "10 q/s: max ms", "10 q/s: dials/s", "10 q/s: most dials in 1 s"),
    )

    def measure(self, bench: Bench, forwarders: Sequence[Forwarder]) -> list[Row]:
        """
        Have forwarders in front of it, all at the same time.
        """
        upstreams = [bench.make_upstreams([self.upstream])[0] for _ in forwarders]
        peers = [bench.make_peer(forwarder, [own]) for forwarder, own in zip(forwarders, upstreams, strict=True)]
        clients = [Client(peer.port, Load(_RATE, self.seconds, _steady_queries)) for peer in peers]
        with bench.running(upstreams):
            with bench.running(peers, is_answering=False):
                time.sleep(1.0)
                with ThreadPoolExecutor(len(peers)) as pool:
                    digs = list(pool.map(_dig, [peer.port for peer in peers]))
                begin = time.monotonic()
                ask(clients)
            accepted = [upstream.received().accepted for upstream in upstreams]
        return [
            self._row(dug, client.tally, dials, begin)
            for dug, client, dials in zip(digs, clients, accepted, strict=True)
        ]

    def _row(self, dug: Dug, tally: Tally, dials: Sequence[float] | None, begin: float) -> Row:
        cells = [responses(dug.tally), " ".join(f"{took * 1e3:,.0f}" for took in dug.took)]
        asked = [responses(tally), milliseconds(tally.percentile(50)), milliseconds(max(tally.times, default=None))]
        if dials is None:
            return Row(["–", *cells, "–", *asked, "–", "–"], "–", tally.late)
        at_first = sum(dial < dug.begin for dial in dials)
        dug_dials = sum(dug.begin <= dial < dug.end for dial in dials)
        middle, end = begin + self.seconds / 2, begin + self.seconds
        steady = sorted(dial for dial in dials if middle <= dial < end)
        rate = f"{len(steady) / (end - middle):.1f}"
        most = max((sum(first <= dial < first + 1.0 for dial in steady) for first in steady), default=0)
        cells = [str(at_first), *cells, str(dug_dials), *asked, rate, str(most)]
        return Row(cells, f"{dug_dials}, {rate}/s", tally.late)


@dataclass
class Dug:
    """
    What came of the digs: when the first was sent and the last ended, by CLOCK_MONOTONIC, and what each took.
    """

    begin: float
    end: float
    took: list[float]
    tally: Tally


def _dig(port: int) -> Dug:
    tally = Tally()
    took = []
    begin = time.monotonic()
    for number in range(_DIGS):
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(_DIG_TIMEOUT)
            sent = time.monotonic()
            client.sendto(make_query(f"dig{number}.lab.example", 1, ident=number), ("127.0.0.1", port))
            tally.sent += 1
            try:
                tally.rcodes[client.recv(4096)[3] & 15] += 1
            except TimeoutError:
                tally.lost += 1
            took.append(time.monotonic() - sent)
    return Dug(begin, time.monotonic(), took, tally)


def _steady_queries(number: int) -> bytes:
    return make_query(f"s{number:05}.lab.example", 1, ident=number)


def every_dial(seconds: float, *, is_general: bool) -> list[Dials]:
    """
    All kinds of upstream that cannot be used.
    """
    kinds: tuple[tuple[str, str, Callable[[Path, Issued], Upstream]], ...] = (
        ("g-old", "speaks TLS 1.1 at most", _scripted(Behaviour.ANSWER, "1.1")),
        ("g-plain", "speaks plain DNS on the port", _scripted(Behaviour.PLAIN, "any")),
        ("g-refuses", "refuses connections", Refusing),
        ("g-untrusted", "has an untrusted certificate", _untrusted),
    )
    return [
        Dials(
            *(key, f"Dials of an upstream that {what}", make, seconds),
            is_quick=make is not Refusing and key != "g-plain",
            is_general=is_general,
        )
        for key, what, make in kinds
    ]
