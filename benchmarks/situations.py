"""
The situations in which bad names are measured, and what a forwarder is asked in each.

Decides rates, delays and names.  A situation has one client with ordinary names, each asked once, and at most one with
bad ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.open_loop import Load
from benchmarks.scripted import BAD_ZONE, Behaviour, Ending
from benchmarks.troubled import DENIED_ZONE, Scripted, StockUnbound, Upstream
from dotproxy.testing.certificates import Issued
from dotproxy.testing.client import make_query

#: Below what every ordinary name is.
ORDINARY_ZONE = "lab.example"

_A, _MAILB = 1, 253
_RD, _RD_AND_TC = 0x0100, 0x0300

MakeUpstream = Callable[[Path, Issued], Upstream]
MakeQuery = Callable[[int], bytes]


@dataclass(frozen=True)
class Situation:
    """
    ``zone`` is below what the bad names are; ``is_quick`` whether ``--quick`` has it; ``is_general`` whether other
    forwarders than dotproxy are tried in it.
    """

    key: str
    title: str
    upstreams: tuple[MakeUpstream, ...]
    ordinary: Load
    bad: Load | None = None
    zone: str = BAD_ZONE
    is_quick: bool = False
    is_general: bool = True

    @property
    def group(self) -> str:
        """
        The letter it is chosen by.
        """
        return self.key.partition("-")[0]


def ordinary_queries(number: int) -> bytes:
    """
    A name that nobody asked before.
    """
    return make_query(f"n{number:05}.{ORDINARY_ZONE}", _A, ident=number)


def bad_queries(zone: str = BAD_ZONE, names: int = 65536) -> MakeQuery:
    """
    A bad name each time, of so many.
    """
    return lambda number: make_query(f"x{number % names:05}.{zone}", _A, ident=number)


def odd_queries(rtype: int = _A, flags: int = _RD) -> MakeQuery:
    """
    A random name with a type or with flags that few ask with.
    """
    chance = random.Random(rtype + flags)

    def query(number: int) -> bytes:
        message = make_query(f"{chance.randbytes(6).hex()}.{ORDINARY_ZONE}", rtype, ident=number)
        return message[:2] + flags.to_bytes(2, "big") + message[4:]

    return query


def scripted(
    behaviour: Behaviour = Behaviour.HANG_UP,
    *,
    delay: float = 0.05,
    ending: Ending = Ending.CLOSE_NOTIFY,
    tls: str = "1.3",
) -> MakeUpstream:
    """
    The scripted upstream.
    """
    return lambda folder, certificate: Scripted(folder, certificate, behaviour, delay=delay, ending=ending, tls=tls)


def every_situation(seconds: float) -> list[Situation]:
    """
    All situations with a steady load, of so many seconds each.
    """
    return [*_hang_ups(seconds), *_real_hang_ups(seconds), *_odd(seconds * 0.8)]


def _hang_ups(seconds: float) -> list[Situation]:
    ordinary = Load(100, seconds, ordinary_queries)

    def situation(
        key: str, rate: float, what: str, upstream: MakeUpstream, names: int = 65536, *, is_quick: bool = False
    ) -> Situation:
        bad = Load(rate, seconds, bad_queries(names=names), 0.5)
        return Situation(key, f"{rate:g} bad names a second, {what}", (upstream,), ordinary, bad, is_quick=is_quick)

    return [
        situation("a", 2, "answers after 50 ms, TLS 1.3, close_notify", scripted(), is_quick=True),
        situation("a-same", 2, "the same 4 names", scripted(), 4),
        situation("a-fin", 2, "bare FIN", scripted(ending=Ending.FIN)),
        situation("a-rst", 2, "RST", scripted(ending=Ending.RST)),
        situation("a-tls12", 2, "TLS 1.2", scripted(tls="1.2")),
        situation("a-tls12-rst", 2, "TLS 1.2, RST", scripted(tls="1.2", ending=Ending.RST)),
        situation("a-1ms", 2, "answers after 1 ms", scripted(delay=0.001)),
        situation("a-200ms", 2, "answers after 200 ms", scripted(delay=0.2)),
        situation("b", 20, "answers after 50 ms, TLS 1.3, close_notify", scripted(), is_quick=True),
        situation("b-same", 20, "the same 4 names", scripted(), 4),
        situation("b-rst", 20, "RST", scripted(ending=Ending.RST)),
        situation("b-1ms", 20, "answers after 1 ms", scripted(delay=0.001)),
        situation("b-200ms", 20, "answers after 200 ms", scripted(delay=0.2)),
    ]


def _real_hang_ups(seconds: float) -> list[Situation]:
    def situation(key: str, rate: float, *, is_quick: bool = False) -> Situation:
        title = f"{rate:g} names a second that a real Unbound denies"
        bad = Load(rate, seconds, bad_queries(DENIED_ZONE), 0.5)
        ordinary = Load(100, seconds, ordinary_queries)
        return Situation(key, title, (StockUnbound,), ordinary, bad, DENIED_ZONE, is_quick)

    return [situation("c", 4, is_quick=True), situation("c-20", 20)]


def _odd(seconds: float) -> list[Situation]:
    def situation(key: str, rate: float, beside: float, rtype: int, flags: int, *, is_quick: bool = False) -> Situation:
        what = f"type {rtype}" if rtype != _A else f"flags 0x{flags:04x}"
        title = f"{rate:g} queries a second with {what} beside {beside:g} ordinary ones, a stock Unbound"
        bad = Load(rate, seconds, odd_queries(rtype, flags), 0.5)
        return Situation(
            key, title, (StockUnbound,), Load(beside, seconds, ordinary_queries), bad, "", is_quick=is_quick
        )

    return [
        *(situation(f"d-{rate}", rate, 47, _MAILB, _RD, is_quick=rate == 300) for rate in (86, 172, 250, 300)),
        *(situation(f"d-tc-{rate}", rate, 47, _A, _RD_AND_TC) for rate in (172, 300)),
        situation("d-300-100", 300, 100, _MAILB, _RD),
    ]
