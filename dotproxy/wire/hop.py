"""
EDNS from hop to hop (RFC 6891 §6.1.1): the OPT a question leaves with, and the OPT its answer gets.

Decides which options travel: COOKIE, tcp-keepalive and padding are between two neighbours and never passed
on (RFC 7873 §5, RFC 7828 §3, RFC 7830 §3); client subnet is what the operator says (RFC 7871); all others
pass both ways.  Questions are padded (RFC 8467 §4.1), whether or not the client speaks EDNS; a client without
EDNS sees none of it.  A signed message is passed on as it is, but for its ID (RFC 8945 §5.5).
"""

from __future__ import annotations

from enum import Enum
from struct import Struct

from dotproxy.errors import WireError
from dotproxy.wire.edit import OUR_UDP_SIZE, refusal, reply_to
from dotproxy.wire.edns import DO, opt_record
from dotproxy.wire.message import FORMERR, HEADER, HEADER_SIZE, MAX_MESSAGE, SERVFAIL, Peek, sections_of

_ECS, _COOKIE, _KEEPALIVE, _PADDING = 8, 10, 11, 12
_BETWEEN_NEIGHBOURS = frozenset((_COOKIE, _KEEPALIVE, _PADDING))

_OPTION = Struct("!HH")
_COUNT = Struct("!H")

#: SOURCE PREFIX-LENGTH 0: do not tell anybody where the client is (RFC 7871 §7.1.2).
_PRIVATE = _OPTION.pack(_ECS, 4) + b"\0\1\0\0"


class Subnet(Enum):
    """
    What happens to client subnet: ask for privacy, say nothing, or pass on what the client says.
    """

    PRIVATE = "private"
    OFF = "off"
    PASS = "pass"  # noqa: S105 (no password)


class Verbatim:
    """
    Passes everything on as it is, options and all: what ``transparent`` means.
    """

    def outgoing(self, query: bytes, seen: Peek) -> bytes:
        """
        Return ``query`` as it is.
        """
        return query

    def incoming(self, query: bytes, seen: Peek, reply: bytes) -> bytes:
        """
        Return ``reply`` with the query's ID.
        """
        return reply_to(query, seen, reply)


class Rebuilt:
    """
    An OPT of our own on each hop.

    ``block`` is the size questions are padded to a multiple of, 0 for no padding.
    """

    def __init__(self, block: int = 128, subnet: Subnet = Subnet.PRIVATE) -> None:
        self._block = block
        self._subnet = subnet
        self._dropped = _BETWEEN_NEIGHBOURS | (set() if subnet is Subnet.PASS else {_ECS})
        self._added = _PRIVATE if subnet is Subnet.PRIVATE else b""
        # The tail of a question without options of the client's: by DO, and by the length of what is before.
        self._tails = {do: [self._tail(do, self._added, length) for length in range(block or 1)] for do in (0, DO)}

    def outgoing(self, query: bytes, seen: Peek) -> bytes:
        """
        Return ``query`` with our OPT instead of its own.

        :raises WireError: if an option in it is malformed (RFC 6891 §7: FORMERR).
        """
        if seen.is_signed:
            return query
        do = seen.edns_flags & DO
        if seen.opt_at and seen.opt_end - seen.opt_at > 11:
            options = kept(query, seen.opt_at, seen.opt_end, self._dropped) + self._added
        else:
            options = b""
        head = query[HEADER_SIZE : seen.question_end]
        additionals = query[10] << 8 | query[11]
        if additionals - bool(seen.opt_at) or query[6:10] != b"\0\0\0\0":
            head = query[HEADER_SIZE : seen.opt_at or len(query)] + (query[seen.opt_end :] if seen.opt_at else b"")
        additionals += not seen.opt_at
        message = query[:10] + _COUNT.pack(additionals) + head
        if options:
            message += self._tail(do, options, len(message))
        else:
            tails = self._tails[do]
            message += tails[len(message) % len(tails)]
        return message if len(message) <= MAX_MESSAGE else query  # there is no room to hide its length in

    def incoming(self, query: bytes, seen: Peek, reply: bytes) -> bytes:
        """
        Return ``reply`` as the answer to ``query``: with an OPT if and only if the query has one.

        :raises WireError: if its records cannot be walked, or its OPT is not well formed.
        """
        if seen.is_signed or not reply[5]:
            return reply_to(query, seen, reply)
        end = seen.question_end
        _, _, _, answers, authorities, additionals = HEADER.unpack_from(reply)
        opt_at, opt_end, _, last = sections_of(reply, end, answers + authorities, additionals)
        extended = 0
        options = b""
        rest = reply[end:last]
        if opt_at:
            extended = reply[opt_at + 5]
            rest = reply[end:opt_at] + reply[opt_end:last]
            additionals -= 1
            if opt_end - opt_at > 11 and seen.opt_at:
                options = kept(reply, opt_at, opt_end, self._dropped)
        if seen.opt_at:
            opt = opt_record(OUR_UDP_SIZE, extended << 4, seen.edns_flags & DO, options)
            if end + len(rest) + len(opt) <= MAX_MESSAGE:  # the longest answers have no room for it
                rest += opt
                additionals += 1
        elif extended:
            return refusal(query, SERVFAIL, seen)  # an rcode that cannot be told without EDNS
        return query[:2] + reply[2:10] + _COUNT.pack(additionals) + query[HEADER_SIZE:end] + rest

    def _tail(self, do: int, options: bytes, length: int) -> bytes:
        if self._block:
            short = -(length + 11 + len(options) + 4) % self._block
            options += _OPTION.pack(_PADDING, short) + bytes(short)
        return opt_record(OUR_UDP_SIZE, 0, do, options)


def kept(octets: bytes, opt_at: int, opt_end: int, dropped: frozenset[int] | set[int]) -> bytes:
    """
    Return the options of the OPT at ``opt_at`` but for those ``dropped``.

    :raises WireError: if one runs past the OPT's end.
    """
    pieces: list[bytes] = []
    offset = opt_at + 11
    while offset < opt_end:
        if offset + 4 > opt_end:
            raise WireError("an EDNS option is cut short", FORMERR)
        code, size = _OPTION.unpack_from(octets, offset)
        end = offset + 4 + size
        if end > opt_end:
            raise WireError("an EDNS option runs past its OPT", FORMERR)
        if code not in dropped:
            pieces.append(octets[offset:end])
        offset = end
    return b"".join(pieces)
