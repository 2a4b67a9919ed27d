"""
The attacks that are tried, and how they are chosen.

Decides numbers: connections, queries, rates.  Those of ``MAIN`` are attacks that once hurt others; ``HELD`` never did.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.attack_queries import Zone
from benchmarks.attack_run import Attack, AttackUpstream, SlowUpstream
from benchmarks.bad_upstreams import Upstream
from benchmarks.load import is_right
from dotproxy.testing.certificates import Issued
from dotproxy.wire.message import question_of
from tests.misbehaving.modes import MODES, address_of

_A, _TXT, _ANY = 1, 16, 255
_TCP = ("udp", "tcp", "tcp kept")


def _flood(packets: str, rate: int, *more: str) -> tuple[str, ...]:
    return ("flood", "--packets", packets, "--rate", str(rate), *more)


def _streams(kind: str, packets: str, connections: int, each: int = 1) -> tuple[str, ...]:
    return (kind, "--packets", packets, "--connections", str(connections), "--each", str(each))


def _tiny(rate: int, *, is_quick: bool = False) -> Attack:
    title = f"{rate:,} UDP queries/s of 59 octets for a cached answer of 65 KB, 5,900 records, in changing spelling"
    return Attack(
        f"tiny-{rate}", title, _flood("tiny", rate), primed=((Zone.TINY, _TXT),), zone=Zone.TINY, is_quick=is_quick
    )


#: Nobody attacks: what the others are compared with.
NOBODY = Attack("nobody", "Nobody attacks", via=_TCP, share=0.5, is_quick=True)

MAIN = (
    _tiny(600),
    _tiny(3000, is_quick=True),
    _tiny(5000),
    Attack(
        "text-3000",
        "3,000 UDP queries/s for a cached answer of 64 KB, 4,000 records of the name asked for, in changing spelling",
        _flood("text", 3000),
        primed=((Zone.TEXT, _TXT),),
        zone=Zone.TEXT,
    ),
    Attack(
        "noread",
        "250 TCP connections, each with 128 queries at once for a cached answer of 60 KB, never read",
        _streams("noread", "huge", 250, 128),
        ("udp", "tcp"),
        primed=((Zone.HUGE, _TXT),),
        zone=Zone.HUGE,
        is_quick=True,
    ),
    Attack(
        "noread-new",
        "The same with 128 names on each, whose answers are not cached",
        _streams("noread", "huge-each", 250, 128),
        ("udp", "tcp"),
        zone=Zone.HUGE,
    ),
    Attack(
        "bigq",
        "5,000 queries of 60 KB, an unknown EDNS option, over 50 TCP connections; an upstream behind 80 Mbit/s",
        _streams("total", "large", 50, 5000),
        ("udp", "tcp"),
        zone=Zone.SOME,
        is_quick=True,
        upstreams=(SlowUpstream,),
    ),
    Attack(
        "bigq-fast",
        "The same in front of an upstream that reads as fast as it can",
        _streams("total", "large", 50, 5000),
        ("udp", "tcp"),
        zone=Zone.SOME,
    ),
    Attack(
        "owed",
        "300 TCP connections, each waiting for an answer that never comes",
        _streams("owed", "mute", 300),
        _TCP,
        zone=Zone.MUTE,
        is_quick=True,
    ),
    Attack(
        "silent",
        "6,000 UDP queries/s for names that the upstream never answers",
        _flood("mute", 6000),
        zone=Zone.MUTE,
        is_quick=True,
    ),
    Attack(
        "random",
        "50,000 UDP queries/s for random names, NXDOMAIN, from one address",
        _flood("none", 50_000),
        zone=Zone.NONE,
        is_quick=True,
    ),
    Attack(
        "random-spoofed",
        "50,000 UDP queries/s for random names, NXDOMAIN, each from another of 16 million addresses",
        _flood("none", 50_000, "--spoofed"),
        zone=Zone.NONE,
    ),
    Attack(
        "pipeline",
        "250 TCP connections, each with 100 queries outstanding for one cached name",
        _streams("pipeline", "some", 250, 100),
        primed=((Zone.SOME, _A),),
        zone=Zone.SOME,
        is_quick=True,
    ),
    Attack(
        "pipeline-new",
        "The same with another name in each query",
        _streams("pipeline", "some-each", 250, 100),
        zone=Zone.SOME,
    ),
)

#: Of the usual time.
_SHORT = 0.5

HELD = (
    Attack("slowloris", "200 TCP connections, an octet of a query each second", _streams("slow", "some", 200), _TCP),
    Attack("half", "200 TCP connections with half a query each", _streams("half", "some", 200), _TCP),
    Attack("octets", "50 TCP connections, queries octet by octet", _streams("octets", "some", 50), ("udp", "tcp")),
    Attack("idle", "2,000 TCP connections over which nothing is sent", _streams("idle", "some", 2000), _TCP),
    Attack("junk", "5,000 UDP packets/s of junk", _flood("junk", 5000)),
    Attack("nx", "1,000 UDP queries/s for random names, NXDOMAIN", _flood("none", 1000), zone=Zone.NONE),
    Attack(
        "any",
        "1,000 UDP queries/s of type ANY for an answer of 60 KB",
        _flood("any", 1000),
        primed=((Zone.HUGE, _ANY),),
        zone=Zone.HUGE,
    ),
)

#: Ways of a hostile upstream, by ``tests/misbehaving``.
HOSTILE = (
    "closes_each_rudely",
    "reset_always",
    "silent_after_1",
    "silent_later",
    "silent_odd",
    "stray_id",
    "other_question",
    "garbage_frames",
    "garbage_octets",
    "octet_by_octet",
    "alerts",
    "no_handshake",
)


class Misbehaving(Upstream):
    """
    An upstream that misbehaves in one way.
    """

    def __init__(self, folder: Path, certificate: Issued, mode: str) -> None:
        super().__init__(folder, certificate)
        self._mode = mode

    def command(self) -> list[str]:
        """
        In the foreground, from this checkout.
        """
        line = [sys.executable, "-m", "tests.misbehaving.server", self._mode]
        return [*line, str(self.certificate), str(self.key), "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        """
        That in which ``tests`` is found.
        """
        return super().environment() | {"PYTHONPATH": str(Path(__file__).parent.parent)}

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "ready" in self.said()


def _is_good(reply: bytes) -> bool:
    """
    Whether a response has the address that either upstream gives its name.
    """
    end = question_of(reply)
    return is_right(reply) or (not reply[3] & 15 and address_of(reply[12:end]) in reply[end:])


def _hostile(mode: str) -> Attack:
    def make(folder: Path, certificate: Issued) -> Upstream:
        return Misbehaving(folder, certificate, mode)

    what = (MODES[mode].__doc__ or "").strip().rstrip(".")
    title = f"Two upstreams, of which the first is hostile: {what[0].lower()}{what[1:]}"
    upstreams = (make, AttackUpstream)
    return Attack(f"hostile-{mode}", title, share=_SHORT, is_general=False, upstreams=upstreams, is_good=_is_good)


def every_attack() -> list[Attack]:
    """
    All rows, those that hurt first.
    """
    held = [dataclasses.replace(each, share=_SHORT) for each in HELD]
    return [NOBODY, *MAIN, *held, *map(_hostile, HOSTILE)]


def chosen(keys: Sequence[str], *, is_quick: bool) -> list[Attack]:
    """
    The rows that are named, by key or by its part before the first dash; without names all, or those that are quick.
    """
    every = every_attack()
    if not keys:
        return [each for each in every if each.is_quick or not is_quick]
    return [each for each in every if each.key in keys or each.key.partition("-")[0] in keys]
