"""
EDNS options of replies that dotproxy acts on: tcp-keepalive (RFC 7828) and Extended DNS Errors (RFC 8914).

Decides how they are read; ``upstream`` and ``forwarding`` act on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from dotproxy.errors import WireError
from dotproxy.wire.edns import EDE_OPTION, KEEPALIVE, options_of
from dotproxy.wire.message import HEADER_SIZE, question_of, records_of

#: A reply without these octets has no tcp-keepalive option with a timeout; the search is cheaper than parsing.
KEEPALIVE_HEAD = Struct("!HH").pack(KEEPALIVE, 2)


#: Unsupported algorithms, bogus, signatures expired or not yet valid, keys, signatures, zone key bits or NSEC missing.
_DNSSEC_ERRORS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 11, 12))


def keepalive_of(reply: bytes) -> int | None:
    """
    Return the idle timeout that a reply grants, in units of 100 ms, 0 for "close now"; None if it says nothing.
    """
    for code, value in _options_in(reply):
        if code == KEEPALIVE and len(value) == 2:
            return int.from_bytes(value, "big")
    return None


def is_bogus(reply: bytes) -> bool:
    """
    Return whether a SERVFAIL reports a DNSSEC failure of the name, which is no failure of the upstream (RFC 8914 §4).
    """
    return any(
        code == EDE_OPTION and int.from_bytes(value[:2], "big") in _DNSSEC_ERRORS for code, value in _options_in(reply)
    )


def ede_code_of(reply: bytes) -> int | None:
    """
    Return the INFO-CODE of the first Extended DNS Error of a reply, None if it has none (RFC 8914 §2).
    """
    for code, value in _options_in(reply):
        if code == EDE_OPTION and len(value) >= 2:
            return int.from_bytes(value[:2], "big")
    return None


def _options_in(reply: bytes) -> Iterator[tuple[int, bytes]]:
    """
    Yield the options of a reply, as far as they can be read.
    """
    end = question_of(reply) if reply[4] or reply[5] else HEADER_SIZE
    if not end:
        return
    try:
        layout = records_of(reply, end)
        if layout.opt_at:
            for code, start, stop in options_of(reply, layout.opt_at, layout.opt_end):
                yield code, reply[start + 4 : stop]
    except WireError:
        pass
