"""
EDNS(0): the OPT record and its options (RFC 6891), and Extended DNS Errors (RFC 8914).

Decides how an OPT is read and written.  Which options travel where is not decided here.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

OPT = 41
DO = 0x8000

EDE_OPTION = 15
EDE_OTHER = 0
EDE_PROHIBITED = 18
EDE_NO_REACHABLE_AUTHORITY = 22
EDE_NETWORK_ERROR = 23

#: An EXTRA-TEXT longer than this says nothing more, and may not fit a 512-octet answer.
MAX_EXTRA_TEXT = 200

_OPT = Struct("!BHHBBHH")
_OPTION = Struct("!HH")


class ExtendedError(NamedTuple):
    """
    An Extended DNS Error: INFO-CODE, and EXTRA-TEXT for a person.
    """

    code: int
    text: str


def opt_record(udp_size: int, rcode: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    """
    Return an OPT record of version 0; ``rcode`` is the whole 12-bit rcode, its upper 8 bits go here.
    """
    return _OPT.pack(0, OPT, udp_size, rcode >> 4, 0, flags, len(options)) + options


def ede_option(error: ExtendedError) -> bytes:
    """
    Return ``error`` as an EDNS option, its text cut between characters if it is too long.
    """
    text = error.text.encode()[:MAX_EXTRA_TEXT].decode(errors="ignore").encode()
    return _OPTION.pack(EDE_OPTION, 2 + len(text)) + error.code.to_bytes(2, "big") + text
