"""
Messages changed at random.

Decides how: single octets, pieces, counts in the header, labels and pointers, records and EDNS options put in.  Knows
nothing of what is done with them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

_NASTY = (0, 1, 11, 12, 41, 63, 64, 0x7F, 0x80, 0xC0, 0xFF)
_TYPES = (1, 2, 5, 6, 12, 15, 16, 24, 28, 33, 35, 39, 41, 46, 47, 64, 65, 128, 249, 250, 251, 252, 255, 256, 65280)
_OPTIONS = (3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 65001)


def _octet(octets: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(octets) + 1)
    octets[place : place + 1] = bytes((chance.choice((*_NASTY, chance.randrange(256))),))


def _cut(octets: bytearray, chance: random.Random) -> None:
    del octets[chance.randrange(len(octets) + 1) :]


def _put_in(octets: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(octets) + 1)
    octets[place:place] = chance.randbytes(chance.randrange(1, 9))


def _take_out(octets: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(octets) + 1)
    del octets[place : place + chance.randrange(1, 9)]


def _flags(octets: bytearray, chance: random.Random) -> None:
    if len(octets) > 3:
        octets[chance.choice((2, 3))] ^= 1 << chance.randrange(8)


def _count(octets: bytearray, chance: random.Random) -> None:
    if len(octets) >= 12:
        place = chance.choice((4, 6, 8, 10))
        octets[place : place + 2] = chance.choice((0, 1, 2, 255, 65535)).to_bytes(2, "big")


def _type(octets: bytearray, chance: random.Random) -> None:
    end = octets.find(b"\0", 12)
    if end > 0 and len(octets) >= end + 5:
        octets[end + 1 : end + 3] = chance.choice(_TYPES).to_bytes(2, "big")
        if chance.random() < 0.2:
            octets[end + 3 : end + 5] = chance.choice((1, 3, 254, 255, 0)).to_bytes(2, "big")


def _pointer(octets: bytearray, chance: random.Random) -> None:
    place = chance.randrange(12, max(13, len(octets)))
    octets[place : place + 2] = (0xC000 | chance.randrange(0x200)).to_bytes(2, "big")


def _spelling(octets: bytearray, chance: random.Random) -> None:
    for place in range(12, min(len(octets), 60)):
        if chr(octets[place]).isalpha() and chance.random() < 0.5:
            octets[place] ^= 0x20


def _record(octets: bytearray, chance: random.Random) -> None:
    """
    Put a record at the end, and count it.
    """
    if len(octets) >= 12:
        rdata = chance.randbytes(chance.choice((0, 1, 4, 16, 300)))
        owner = chance.choice((b"\0", b"\xc0\x0c", b"\x01a\0"))
        ttl = chance.choice((0, 1, 60, 2**31, 2**32 - 1)).to_bytes(4, "big")
        octets += owner + chance.choice(_TYPES).to_bytes(2, "big") + b"\0\1" + ttl
        octets += len(rdata).to_bytes(2, "big") + rdata
        octets[10:12] = (int.from_bytes(octets[10:12], "big") + 1 & 0xFFFF).to_bytes(2, "big")


def _opt(octets: bytearray, chance: random.Random) -> None:
    """
    Put an OPT at the end, and count it.
    """
    if len(octets) >= 12:
        options = b""
        for _ in range(chance.randrange(4)):
            value = chance.randbytes(chance.choice((0, 1, 2, 4, 8, 16, 24, 40, 500)))
            options += chance.choice(_OPTIONS).to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
        if options and chance.random() < 0.2:
            options = options[:-1]
        size = chance.choice((0, 512, 1232, 4096, 65535)).to_bytes(2, "big")
        flags = bytes((chance.choice((0, 0, 0, 1, 255)), chance.choice((0, 0, 0, 1)), chance.choice((0, 0x80)), 0))
        octets += b"\0\0\x29" + size + flags + len(options).to_bytes(2, "big") + options
        octets[10:12] = (int.from_bytes(octets[10:12], "big") + 1 & 0xFFFF).to_bytes(2, "big")


_ALL: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_octet, _octet, _cut, _put_in, _take_out, _flags, _count, _type, _pointer, _spelling, _record, _opt),
)


def mutated(message: bytes, chance: random.Random) -> bytes:
    """
    Return ``message`` with one to three changes.
    """
    octets = bytearray(message)
    for _ in range(chance.randrange(1, 4)):
        chance.choice(_ALL)(octets, chance)
    return bytes(octets[:65535])
