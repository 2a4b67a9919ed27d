"""
What an upstream says of idle connections (RFC 7828).

Decides how that is read; what is done about it is the connection's business.
"""

from __future__ import annotations

from struct import Struct

from dotproxy.errors import WireError
from dotproxy.wire.edns import KEEPALIVE, options_of
from dotproxy.wire.message import HEADER, HEADER_SIZE, question_of, sections_of

#: A reply without these octets has no tcp-keepalive option with a timeout: a look that costs next to nothing.
KEEPALIVE_HEAD = Struct("!HH").pack(KEEPALIVE, 2)


def keepalive_of(reply: bytes) -> int | None:
    """
    Return the idle timeout that a reply grants, in units of 100 ms, 0 for "close now"; None if it says nothing.
    """
    _, _, questions, answers, authorities, additionals = HEADER.unpack_from(reply)
    end = question_of(reply) if questions else HEADER_SIZE
    try:
        opt_at, opt_end, _, _ = sections_of(reply, end, answers + authorities, additionals)
        for code, start, stop in options_of(reply, opt_at, opt_end) if opt_at else ():
            if code == KEEPALIVE and stop - start == 6:
                return reply[start + 4] << 8 | reply[start + 5]
    except WireError:
        pass
    return None
