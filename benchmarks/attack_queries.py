"""
The queries of an attack, and the zones of the upstream that they are for.

Decides what an attacker's packets look like; how many leave, and when, is the sender's business.  Each zone is named by
four letters below ``attack.example``, and says what the upstream does (``attack_upstream``).
"""

from __future__ import annotations

import enum
import functools
import itertools
import random
from collections.abc import Callable, Iterator

from dotproxy.testing.client import make_query
from dotproxy.wire.edns import opt_record
from dotproxy.wire.names import from_text

#: Of what each name of these zones consists behind its first label.
PARENT = "attack.example"

_A, _TXT, _ANY = 1, 16, 255

#: RFC 6891 §9: 65001 to 65534 are for local use.
_UNKNOWN_OPTION = 65001
_UNKNOWN_OPTION_OCTETS = 60_000

#: How many spellings of one name there are, each made once.
_SPELLINGS = 16_384
_JUNK = 4_096


class Zone(enum.Enum):
    """
    What the upstream answers for names below it.
    """

    TINY = "tiny"  # 65 KB: 5,900 TXT records of 11 octets, owned by the root
    TEXT = "text"  # 64 KB: 4,000 TXT records of 16 octets, owned by the name asked for
    HUGE = "huge"  # 60 KB: 223 TXT records of 268 octets
    MUTE = "mute"  # nothing, ever
    NONE = "none"  # NXDOMAIN
    SOME = "some"  # one address

    @property
    def wire(self) -> bytes:
        """
        The zone's name: 21 octets for each of them.
        """
        return from_text(f"{self.value}.{PARENT}")


#: Makes the packet of a number.
Packets = Callable[[int], bytes]


@functools.cache
def _rest(zone: Zone, rtype: int) -> bytes:
    return zone.wire + rtype.to_bytes(2, "big") + b"\0\1" + opt_record(1232)


def _distinct(zone: Zone, rtype: int) -> Packets:
    """
    A packet for another name each time, the same ones in each run; made quickly.
    """
    rest = _rest(zone, rtype)

    def make(number: int) -> bytes:
        flags_and_counts = b"\1\0\0\1\0\0\0\0\0\1"
        return (number & 0xFFFF).to_bytes(2, "big") + flags_and_counts + b"\x0a%010x" % number + rest

    return make


def _scattered(zone: Zone, rtype: int) -> Packets:
    """
    As ``_distinct``, with names that do not come in order: a number times an odd one is another number modulo 2**40.
    """
    make = _distinct(zone, rtype)
    return lambda number: make(number * 0x9E3779B97F & 0xFF_FFFF_FFFF)


def fixed_name(zone: Zone) -> str:
    """
    The name of a zone that is asked for again and again.
    """
    return f"abcdefghij.{zone.value}.{PARENT}"


def _same(zone: Zone, rtype: int) -> Packets:
    query = make_query(fixed_name(zone), rtype)
    return lambda number: (number & 0xFFFF).to_bytes(2, "big") + query[2:]


def _spelled(zone: Zone, rtype: int) -> Packets:
    """
    One name, its letters large or small by chance (draft-vixie-dnsext-dns0x20).
    """
    chance = random.Random(1)

    def spelling() -> bytes:
        name = "".join(chance.choice((letter, letter.upper())) for letter in fixed_name(zone))
        return make_query(name, rtype)[2:]

    made = [spelling() for _ in range(_SPELLINGS)]
    return lambda number: (number & 0xFFFF).to_bytes(2, "big") + made[number % _SPELLINGS]


def _junk() -> Packets:
    """
    Random octets, half of them behind a header that is a query's; and queries that end too soon.
    """
    chance = random.Random(1)
    kinds: Iterator[Callable[[], bytes]] = itertools.cycle(
        (
            lambda: chance.randbytes(chance.randrange(1, 200)),
            lambda: chance.randbytes(2) + b"\1\0\0\1\0\0\0\0\0\1" + chance.randbytes(chance.randrange(1, 200)),
            lambda: make_query("abcdefghij.some.attack.example", _A)[: chance.randrange(13, 50)],
            lambda: chance.randbytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + b"\xc0\x0c\0\1\0\1",
        )
    )
    made = [next(kinds)() for _ in range(_JUNK)]
    return lambda number: made[number % _JUNK]


def _large() -> Packets:
    """
    Queries of 60 KB: one EDNS option that nobody knows.
    """
    option = _UNKNOWN_OPTION.to_bytes(2, "big") + _UNKNOWN_OPTION_OCTETS.to_bytes(2, "big")
    option += bytes(_UNKNOWN_OPTION_OCTETS)
    opt = b"\0\0\x29\4\xd0\0\0\0\0" + len(option).to_bytes(2, "big") + option
    make = _distinct(Zone.SOME, _A)
    return lambda number: make(number)[: -len(opt_record(1232))] + opt


_MAKERS: dict[str, Callable[[], Packets]] = {
    "tiny": lambda: _spelled(Zone.TINY, _TXT),
    "text": lambda: _spelled(Zone.TEXT, _TXT),
    "huge": lambda: _same(Zone.HUGE, _TXT),
    "huge-each": lambda: _distinct(Zone.HUGE, _TXT),
    "mute": lambda: _distinct(Zone.MUTE, _A),
    "none": lambda: _scattered(Zone.NONE, _A),
    "some": lambda: _same(Zone.SOME, _A),
    "some-each": lambda: _distinct(Zone.SOME, _A),
    "any": lambda: _same(Zone.HUGE, _ANY),
    "junk": _junk,
    "large": _large,
}

#: What ``packets`` takes.
KINDS = tuple(_MAKERS)


def packets(kind: str) -> Packets:
    """
    Return what makes the packets of a kind.
    """
    return _MAKERS[kind]()
