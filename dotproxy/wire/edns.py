"""
EDNS(0): the OPT record and its options (RFC 6891), and Extended DNS Errors (RFC 8914).

Decides how an OPT is read and written.  Which options are forwarded is decided in ``rewrite``.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from dotproxy.errors import WireError
from dotproxy.wire.rrtypes import OPT

DO = 0x8000

#: An OPT without options takes this many octets.
OPT_SIZE = 11

ECS, COOKIE, KEEPALIVE, PADDING = 8, 10, 11, 12

_FORMERR = 1

EDE_OPTION = 15
EDE_OTHER = 0
EDE_STALE_ANSWER = 3
EDE_CACHED_ERROR = 13
EDE_PROHIBITED = 18
EDE_STALE_NXDOMAIN = 19
EDE_NO_REACHABLE_AUTHORITY = 22
EDE_NETWORK_ERROR = 23

#: The longest EXTRA-TEXT sent, in octets of UTF-8: a longer one may not fit a 512-octet response.
MAX_EXTRA_TEXT = 160
_ELLIPSIS = "..."

_OPT = Struct("!BHHBBHH")
_OPTION = Struct("!HH")


class ExtendedError(NamedTuple):
    """
    An Extended DNS Error: INFO-CODE and EXTRA-TEXT.
    """

    code: int
    text: str


def opt_record(udp_size: int, rcode: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    """
    Return an OPT record of version 0; ``rcode`` is the whole 12-bit rcode, its upper 8 bits go here.
    """
    return _OPT.pack(0, OPT, udp_size, rcode >> 4, 0, flags, len(options)) + options


def option(code: int, value: bytes) -> bytes:
    """
    Return one EDNS option in wire form.
    """
    return _OPTION.pack(code, len(value)) + value


def options_of(octets: bytes, opt_at: int, opt_end: int) -> Iterator[tuple[int, int, int]]:
    """
    Yield each option of the OPT at ``opt_at``: its code, and where it begins (its value 4 octets later) and ends.

    :raises WireError: if one runs past the OPT's end.
    """
    offset = opt_at + OPT_SIZE
    while offset < opt_end:
        if offset + 4 > opt_end:
            raise WireError("an EDNS option is cut short", _FORMERR)
        code, size = _OPTION.unpack_from(octets, offset)
        end = offset + 4 + size
        if end > opt_end:
            raise WireError("an EDNS option runs past its OPT", _FORMERR)
        yield code, offset, end
        offset = end


def ede_option(error: ExtendedError) -> bytes:
    """
    Return ``error`` as an EDNS option (RFC 8914 §2), its text ``shortened`` to ``MAX_EXTRA_TEXT`` octets.
    """
    return option(EDE_OPTION, error.code.to_bytes(2, "big") + shortened(error.text, MAX_EXTRA_TEXT).encode())


def shortened(text: str, limit: int) -> str:
    """
    Return ``text`` if it has at most ``limit`` octets in UTF-8, else its first whole words and three dots.

    A first word that is too long itself is cut between two characters.
    """
    octets = text.encode()
    if len(octets) <= limit:
        return text
    head = octets[: limit - len(_ELLIPSIS)].decode(errors="ignore")
    words, space, _ = head.rpartition(" ")
    return f"{words.rstrip(' ;:,')}{space}{_ELLIPSIS}" if words.strip() else head + _ELLIPSIS
