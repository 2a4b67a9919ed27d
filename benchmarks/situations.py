"""
The situations with a steady load: what the upstream does, and what a forwarder is asked.

Decides rates, delays and names.  A situation has one client with ordinary names, each asked once, and at most one with
bad ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from benchmarks.bad_upstreams import DENIED_ZONE, MakeUpstream, Received, Scripted, StockUnbound
from benchmarks.bench import Bench, Row, extended_errors, milliseconds, received_by, responses
from benchmarks.forwarders import Forwarder
from benchmarks.open_loop import NOERROR, SERVFAIL, Client, Load, Tally, ask
from benchmarks.scripted import BAD_ZONE, Behaviour, Ending
from dotproxy.testing.client import make_query

#: Below what every ordinary name is.
ORDINARY_ZONE = "lab.example"

_A, _MAILB = 1, 253
_RD, _RD_AND_TC = 0x0100, 0x0300

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

    head: ClassVar[Sequence[str]] = (
        *("NOERROR", "SERVFAIL", "other", "lost", "p50 ms", "p99 ms", "max ms"),
        *("bad: responses", "bad: EDE", "bad: p50 ms", "bad: max ms", "bad: sends", "ordinary: sends", "connections"),
    )

    def measure(self, bench: Bench, forwarders: Sequence[Forwarder]) -> list[Row]:
        """
        Have forwarders in this situation, all at the same time.
        """
        upstreams = [bench.make_upstreams(self.upstreams) for _ in forwarders]
        peers = [bench.make_peer(forwarder, own) for forwarder, own in zip(forwarders, upstreams, strict=True)]
        ordinary = [Client(peer.port, self.ordinary) for peer in peers]
        bad = [Client(peer.port, self.bad) for peer in peers] if self.bad else []
        with bench.running([upstream for own in upstreams for upstream in own]):
            with bench.running(peers):
                ask([*ordinary, *bad])
            received = [received_by(own) for own in upstreams]
        return [
            self._row(client.tally, bad[number].tally if bad else None, received[number])
            for number, client in enumerate(ordinary)
        ]

    def _row(self, tally: Tally, bad: Tally | None, received: Received) -> Row:
        other = sum(tally.rcodes.values()) - tally.rcodes[NOERROR] - tally.rcodes[SERVFAIL] + tally.wrong
        p99 = milliseconds(tally.percentile(99))
        good = f"{tally.good} of {tally.sent}"
        cells = [good, str(tally.rcodes[SERVFAIL]), str(other), str(tally.lost)]
        cells += [milliseconds(tally.percentile(50)), p99, milliseconds(max(tally.times, default=None))]
        if bad is None:
            cells += ["–"] * 4
        else:
            cells += [responses(bad), extended_errors(bad.errors)]
            cells += [milliseconds(bad.percentile(50)), milliseconds(max(bad.times, default=None))]
        cells += [str(received.most(self.zone) or "–") if self.zone else "–", str(received.most(ORDINARY_ZONE))]
        cells.append("–" if received.accepted is None else str(len(received.accepted)))
        share = f"{100 * tally.good / tally.sent:.1f}".removesuffix(".0") if tally.sent else "–"
        return Row(cells, f"{share} %, {p99} ms", tally.late + (bad.late if bad else 0))


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
    hang_up_after: float = 0.0,
) -> MakeUpstream:
    """
    The scripted upstream.
    """
    return lambda folder, certificate: Scripted(
        folder, certificate, behaviour, delay=delay, ending=ending, tls=tls, hang_up_after=hang_up_after
    )


def every_situation(seconds: float) -> list[Situation]:
    """
    All situations with a steady load, of so many seconds each.
    """
    return [*_hang_ups(seconds), *_real_hang_ups(seconds), *_odd(seconds * 0.8), *_two(seconds), *_closers(seconds)]


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
        situation("a-late", 2, "hangs up after 50 ms, too", scripted(hang_up_after=0.05)),
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
        replace(
            situation("d-two-250", 250, 47, _MAILB, _RD),
            title="250 queries a second with type 253 beside 47 ordinary ones, two stock Unbounds",
            upstreams=(StockUnbound, StockUnbound),
            is_general=False,
        ),
    ]


def _two(seconds: float) -> list[Situation]:
    ordinary = Load(100, seconds, ordinary_queries)

    def situation(key: str, rate: float, what: str, second: MakeUpstream, *, is_quick: bool = False) -> Situation:
        bad = Load(rate, seconds, bad_queries(), 0.5)
        title = f"{rate:g} bad names a second, two upstreams, {what}"
        made = Situation(key, title, (scripted(), second), ordinary, bad, is_quick=is_quick)
        return replace(made, is_general=False)

    answering = scripted(Behaviour.ANSWER)
    return [
        situation("e", 2, "the second answers all names", answering, is_quick=True),
        situation("e-20", 20, "the second answers all names", answering),
        situation("e-both", 2, "both hang up", scripted()),
        situation("e-both-20", 20, "both hang up", scripted()),
    ]


def _closers(seconds: float) -> list[Situation]:
    def situation(key: str, delay: float, burst: int = 1, *, is_quick: bool = False) -> Situation:
        title = f"An upstream that closes after each answer, which takes {delay * 1e3:g} ms"
        title += f"; bursts of {burst} queries" if burst > 1 else ""
        closer = scripted(Behaviour.CLOSE_EACH, delay=delay)
        ordinary = Load(100, seconds, ordinary_queries, burst=burst)
        return Situation(key, title, (closer,), ordinary, is_quick=is_quick, is_general=False)

    return [situation("f", 0.001), situation("f-50ms", 0.05, is_quick=True), situation("f-burst", 0.05, 50)]
