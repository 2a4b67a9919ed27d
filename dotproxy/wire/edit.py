"""
Messages made from other messages: answers of our own, and answers cut to fit.

Decides how octets change on their way back.  What is answered, and to whom, is decided elsewhere.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.wire.edns import DO, EDE_OPTION, OPT, OPT_SIZE, PADDING, ExtendedError, ede_option, opt_record, options_of
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
    edns_flags_of,
    question_of,
)
from dotproxy.wire.records import walk

#: What we say we take over UDP: the size that survives every path (RFC 9715 R3, DNS flag day 2020).
OUR_UDP_SIZE = 1232

#: One question, no records, with and without an OPT.
_WITH_OPT, _BARE = b"\0\1\0\0\0\0\0\1", b"\0\1\0\0\0\0\0\0"

#: Options that no record of a truncated answer makes room for.
_LEAST = frozenset((EDE_OPTION, PADDING))


def refusal(query: bytes, rcode: int, seen: Peek | None = None, error: ExtendedError | None = None) -> bytes:
    """
    Return an answer to ``query`` with no records: ``rcode``, its question if it has one, and, if it
    came with EDNS, an OPT with ``error`` in it.

    ``seen`` is None when ``query`` could not be parsed; there is then an OPT if one can be read in it, and with a
    BADVERS, which cannot be said without one.  ``query`` has at least 12 octets.
    """
    ident, flags, _, _, _, _ = HEADER.unpack_from(query)
    end = (seen.question_end if seen else question_of(query)) or HEADER_SIZE
    opt = b""
    if seen is None:
        edns_flags = edns_flags_of(query)
        if edns_flags is not None or rcode > 15:
            opt = opt_record(OUR_UDP_SIZE, rcode, (edns_flags or 0) & DO)
    elif seen.opt_at:
        options = seen.ours + (ede_option(error) if error else b"")
        opt = opt_record(OUR_UDP_SIZE, rcode, seen.edns_flags & DO, options)
    ours = QR | flags & OPCODE | rcode & 15
    if not flags & OPCODE:
        ours |= flags & (RD | CD) | RA  # which are defined for QUERY alone
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

    There is an OPT if and only if ``query`` has one (RFC 6891 §7).  In it are the reply's extended rcode and its
    options, which records make room for, but for padding, which is for encrypted transports (RFC 7830 §6), and
    Extended DNS Errors, which get what room the records leave (RFC 8914 §3).
    """
    _, flags, _, *counts = HEADER.unpack_from(reply)
    end = cut = seen.question_end
    records, opt_at, opt_end = _records_and_opt(reply, end, limit, counts)
    extended, options, errors = 0, seen.ours, b""
    room = limit - end - OPT_SIZE
    if opt_at:
        extended = reply[opt_at + 5]
        options = _as_many_as_fit(reply, opt_at, opt_end, room, dropped=_LEAST)
    opt_size = OPT_SIZE + len(options) if seen.opt_at else 0
    kept = [0, 0, 0]
    for section, record_end in records:
        if record_end + opt_size > limit:
            break
        cut = record_end
        kept[section] += 1
    opt = b""
    if seen.opt_at:
        if opt_at:
            errors = _as_many_as_fit(reply, opt_at, opt_end, limit - cut - opt_size, only=EDE_OPTION)
        opt = opt_record(OUR_UDP_SIZE, extended << 4, seen.edns_flags & DO, options + errors)
        kept[2] += 1
    header = HEADER.pack(query[0] << 8 | query[1], flags | TC, 1, *kept)
    return header + query[HEADER_SIZE:end] + reply[end:cut] + opt


def _records_and_opt(reply: bytes, end: int, limit: int, counts: list[int]) -> tuple[list[tuple[int, int]], int, int]:
    """
    Return the section and the end of each record that ends within ``limit``, as far as they can be walked and
    nothing but the OPT stands between them; and where the OPT begins and ends, 0 and 0 without one.
    """
    records: list[tuple[int, int]] = []
    opt_at = opt_end = 0
    last = end
    sections = [section for section, count in enumerate(counts) for _ in range(count)]
    try:
        for section, record in zip(sections, walk(reply, end, len(sections)), strict=True):
            if record.type == OPT:
                opt_at, opt_end = record.start, record.end
            elif record.start == last and record.end <= limit:
                last = record.end
                records.append((section, last))
    except WireError:
        pass
    return records, opt_at, opt_end


def _as_many_as_fit(
    reply: bytes, opt_at: int, opt_end: int, room: int, *, dropped: frozenset[int] = frozenset(), only: int = -1
) -> bytes:
    """
    Return the options of an OPT that fit into so many octets, the first before others, as far as they can be read.
    """
    kept: list[bytes] = []
    try:
        for code, start, stop in options_of(reply, opt_at, opt_end):
            if code not in dropped and only in (code, -1) and stop - start <= room:
                kept.append(reply[start:stop])
                room -= stop - start
    except WireError:
        pass
    return b"".join(kept)
