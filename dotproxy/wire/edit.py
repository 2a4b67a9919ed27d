"""
Messages made from other messages: answers of our own, and answers cut to fit.

Decides how octets change on their way back.  What is answered, and to whom, is decided elsewhere.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.wire.edns import DO, OPT, OPT_SIZE, ExtendedError, ede_option, opt_record
from dotproxy.wire.message import (
    CD,
    HEADER,
    HEADER_SIZE,
    OPCODE,
    QR,
    RA,
    RD,
    TC,
    Peek,
    question_of,
)
from dotproxy.wire.records import walk

#: What we say we take over UDP: the size that survives every path (RFC 9715 R3, DNS flag day 2020).
OUR_UDP_SIZE = 1232

#: One question, no records, with and without an OPT.
_WITH_OPT, _BARE = b"\0\1\0\0\0\0\0\1", b"\0\1\0\0\0\0\0\0"


def refusal(query: bytes, rcode: int, seen: Peek | None = None, error: ExtendedError | None = None) -> bytes:
    """
    Return an answer to ``query`` with no records: ``rcode``, its question if it has one, and, if it
    came with EDNS, an OPT with ``error`` in it.

    ``seen`` is None when ``query`` could not be parsed; an OPT is then sent only for a BADVERS, which
    cannot be said without one.  ``query`` has at least 12 octets.
    """
    ident, flags, _, _, _, _ = HEADER.unpack_from(query)
    end = (seen.question_end if seen else question_of(query)) or HEADER_SIZE
    opt = b""
    if seen and seen.opt_at:
        options = seen.ours + (ede_option(error) if error else b"")
        opt = opt_record(OUR_UDP_SIZE, rcode, seen.edns_flags & DO, options)
    elif seen is None and rcode > 15:
        opt = opt_record(OUR_UDP_SIZE, rcode)
    ours = QR | flags & (OPCODE | RD | CD) | RA | rcode & 15
    header = HEADER.pack(ident, ours, 1 if end > HEADER_SIZE else 0, 0, 0, 1 if opt else 0)
    return header + query[HEADER_SIZE:end] + opt


def reply_to(query: bytes, seen: Peek, reply: bytes) -> bytes:
    """
    Return an upstream's ``reply`` as the answer to ``query``: its ID, its question as it was spelled.

    Everything else is the upstream's, octet for octet.  An error that came without its question gets it
    back, and an OPT if ``query`` has one, and no more.
    """
    end = seen.question_end
    if reply[5]:
        return query[:2] + reply[2:HEADER_SIZE] + query[HEADER_SIZE:end] + reply[end:]
    opt = opt_record(OUR_UDP_SIZE, 0, seen.edns_flags & DO, seen.ours) if seen.opt_at else b""
    flags = bytes((reply[2] | query[2] & RD >> 8, reply[3] | query[3] & CD))
    return query[:2] + flags + (_WITH_OPT if opt else _BARE) + query[HEADER_SIZE:end] + opt


def ask_over_tcp(query: bytes, seen: Peek) -> bytes:
    """
    Return an answer with no records and TC set: there is one, but not over UDP.
    """
    answer = refusal(query, 0, seen)
    return answer[:2] + bytes((answer[2] | TC >> 8,)) + answer[3:]


def truncated(reply: bytes, query: bytes, seen: Peek, limit: int) -> bytes:
    """
    Return ``reply`` with TC set and no longer than ``limit`` octets: its question as in ``query``, of its
    records as many whole ones as fit, from the first (RFC 2181 §9; a stub that does not ask again over TCP can
    use them), and OPT.

    There is an OPT if and only if ``query`` has one; the reply's extended rcode survives in it, of its options
    only ours do (RFC 6891 §7).
    """
    _, flags, _, *counts = HEADER.unpack_from(reply)
    end = seen.question_end
    opt_size = OPT_SIZE + len(seen.ours) if seen.opt_at else 0
    kept = [0, 0, 0]
    extended = 0
    cut = end
    sections = [section for section, count in enumerate(counts) for _ in range(count)]
    try:
        for section, record in zip(sections, walk(reply, end, len(sections)), strict=True):
            if record.type == OPT:
                extended = reply[record.start + 5]
            elif record.start == cut and record.end + opt_size <= limit:
                cut = record.end
                kept[section] += 1
    except WireError:
        pass
    opt = opt_record(OUR_UDP_SIZE, extended << 4, seen.edns_flags & DO, seen.ours) if opt_size else b""
    kept[2] += 1 if opt else 0
    header = HEADER.pack(query[0] << 8 | query[1], flags | TC, 1, *kept)
    return header + query[HEADER_SIZE:end] + reply[end:cut] + opt
