"""
Responses made from queries and replies: refusals, and truncated responses.

Decides their octets.  Which query gets which response is decided in ``forwarding``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from struct import Struct

from dotproxy.errors import WireError
from dotproxy.wire.edns import DO, EDE_OPTION, OPT_SIZE, PADDING, ExtendedError, ede_option, opt_record, options_of
from dotproxy.wire.message import (
    CD,
    HEADER,
    HEADER_SIZE,
    OPCODE,
    QR,
    RA,
    RD,
    TC,
    QueryInfo,
    edns_flags_of,
    question_of,
)
from dotproxy.wire.parsed_response import ParsedResponse
from dotproxy.wire.records import walk
from dotproxy.wire.rrtypes import OPT

#: The UDP payload size that is advertised; it avoids fragments (RFC 9715 R3, DNS flag day 2020).
OUR_UDP_SIZE = 1232

#: One question, no records, with and without an OPT.
_WITH_OPT, _BARE = b"\0\1\0\0\0\0\0\1", b"\0\1\0\0\0\0\0\0"

#: ``ParsedResponse.head``: flags, and the counts but ARCOUNT.
_HEAD = Struct("!4H")

#: Options that take no room from the records of a truncated response.
_LEAST = frozenset((EDE_OPTION, PADDING))


def refusal(query: bytes, rcode: int, info: QueryInfo | None = None, error: ExtendedError | None = None) -> bytes:
    """
    Return an answer to ``query`` with no records: ``rcode``, its question if it has one, and, if it
    came with EDNS, an OPT with ``error`` in it.

    ``info`` is None when ``query`` could not be parsed; there is then an OPT if one can be read in it, and with a
    BADVERS, which cannot be said without one.  ``query`` has at least 12 octets.
    """
    ident, flags, _, _, _, _ = HEADER.unpack_from(query)
    end = (info.question_end if info else question_of(query)) or HEADER_SIZE
    opt = b""
    if info is None:
        edns_flags = edns_flags_of(query)
        if edns_flags is not None or rcode > 15:
            opt = opt_record(OUR_UDP_SIZE, rcode, (edns_flags or 0) & DO)
    elif info.opt_at:
        options = info.response_options + (ede_option(error) if error else b"")
        opt = opt_record(OUR_UDP_SIZE, rcode, info.edns_flags & DO, options)
    ours = QR | flags & OPCODE | rcode & 15
    if not flags & OPCODE:
        ours |= flags & (RD | CD) | RA  # which are defined for QUERY alone
    header = HEADER.pack(ident, ours, 1 if end > HEADER_SIZE else 0, 0, 0, 1 if opt else 0)
    return header + query[HEADER_SIZE:end] + opt


def restore_question(query: bytes, info: QueryInfo, reply: bytes) -> bytes:
    """
    Return an upstream's ``reply`` as the answer to ``query``: its ID, its question as it was spelled.

    Everything else is the upstream's, octet for octet.  An error that came without its question gets it
    back, and an OPT if ``query`` has one, and no more.
    """
    end = info.question_end
    if reply[5]:
        return query[:2] + reply[2:HEADER_SIZE] + query[HEADER_SIZE:end] + reply[end:]
    opt = opt_record(OUR_UDP_SIZE, 0, info.edns_flags & DO, info.response_options) if info.opt_at else b""
    flags = bytes((reply[2] | query[2] & RD >> 8, reply[3] | query[3] & CD))
    return query[:2] + flags + (_WITH_OPT if opt else _BARE) + query[HEADER_SIZE:end] + opt


def ask_over_tcp(query: bytes, info: QueryInfo) -> bytes:
    """
    Return a response without records and with TC set, so that the client retries over TCP.
    """
    answer = refusal(query, 0, info)
    return answer[:2] + bytes((answer[2] | TC >> 8,)) + answer[3:]


def truncate(reply: bytes, query: bytes, info: QueryInfo, limit: int, *, is_empty: bool = False) -> bytes:
    """
    Return ``reply`` with TC set and no longer than ``limit`` octets: its question as in ``query``, of its
    records as many whole ones as fit, from the first (RFC 2181 §9; a stub that does not ask again over TCP can
    use them), and OPT.

    There is an OPT if and only if ``query`` has one (RFC 6891 §7).  In it are the reply's extended rcode and its
    options, which records make room for, but for padding, which is for encrypted transports (RFC 7830 §6), and
    Extended DNS Errors, which get what room the records leave (RFC 8914 §3).

    One that ``is_empty`` has no records and no options but the listener's own: it is hardly longer than ``query``.
    """
    _, flags, _, *counts = HEADER.unpack_from(reply)
    end = info.question_end
    records, opt_at, opt_end = _records_and_opt(reply, end, limit, counts)

    def first_records(room: int) -> tuple[list[int], bytes]:
        kept, cut = [0, 0, 0], end
        for section, record_end in records:
            if record_end > end + room:
                break
            cut = record_end
            kept[section] += 1
        return kept, reply[end:cut]

    return _cut(query, info, flags, reply[opt_at:opt_end], limit, None if is_empty else first_records)


def truncate_parsed(
    answer: ParsedResponse, query: bytes, info: QueryInfo, limit: int, *, age: int = 0, is_empty: bool = False
) -> bytes:
    """
    Return what ``truncate`` does for a parsed response, ``age`` seconds later.

    It is cut first, so that the work depends on ``limit`` and not on the size of the response.
    """
    flags, _, answers, authorities = _HEAD.unpack(answer.head)

    def first_records(room: int) -> tuple[list[int], bytes]:
        count, cut = answer.first_records(room)
        before = min(count, answers + authorities)
        kept = [min(count, answers), before - min(count, answers), count - before]
        return kept, cut.aged_body(age) if age else cut.body

    opt = opt_record(0, answer.extended_rcode << 4, 0, answer.options + info.response_options)
    return _cut(query, info, flags, opt, limit, None if is_empty else first_records)


def _cut(
    query: bytes,
    info: QueryInfo,
    flags: int,
    opt: bytes,
    limit: int,
    first_records: Callable[[int], tuple[list[int], bytes]] | None,
) -> bytes:
    """
    Return a truncated answer with these flags and what fits of the OPT ``opt``, if there is one.

    ``first_records`` returns how many records of each section fit into so many octets, and those; without it there are
    none.
    """
    end, kept, records = info.question_end, [0, 0, 0], b""
    extended = opt[5] if opt else 0
    options = info.response_options
    if opt and first_records is not None:
        options = _as_many_as_fit(opt, limit - end - OPT_SIZE, dropped=_LEAST)
    opt_size = OPT_SIZE + len(options) if info.opt_at else 0
    if first_records is not None:
        kept, records = first_records(limit - end - opt_size)
        if opt:
            options += _as_many_as_fit(opt, limit - end - len(records) - opt_size, only=EDE_OPTION)
    header = HEADER.pack(query[0] << 8 | query[1], flags | TC, 1, kept[0], kept[1], kept[2] + bool(info.opt_at))
    cut = header + query[HEADER_SIZE:end] + records
    return cut + opt_record(OUR_UDP_SIZE, extended << 4, info.edns_flags & DO, options) if info.opt_at else cut


def _records_and_opt(reply: bytes, end: int, limit: int, counts: list[int]) -> tuple[list[tuple[int, int]], int, int]:
    """
    Return the section and the end of each record that ends within ``limit``, as far as they can be walked and
    nothing but the OPT stands between them; and where the OPT begins and ends, 0 and 0 without one.
    """
    records: list[tuple[int, int]] = []
    opt_at = opt_end = 0
    last = end
    sections = [section for section, count in enumerate(counts) for _ in range(count)]
    with suppress(WireError):
        for section, record in zip(sections, walk(reply, end, len(sections)), strict=True):
            if record.type == OPT:
                opt_at, opt_end = record.start, record.end
            elif record.start == last and record.end <= limit:
                last = record.end
                records.append((section, last))
    return records, opt_at, opt_end


def _as_many_as_fit(opt: bytes, room: int, *, dropped: frozenset[int] = frozenset(), only: int = -1) -> bytes:
    """
    Return the options of an OPT that fit into so many octets, the first before others, as far as they can be read.
    """
    kept: list[bytes] = []
    try:
        for code, start, stop in options_of(opt, 0, len(opt)):
            if code not in dropped and only in (code, -1) and stop - start <= room:
                kept.append(opt[start:stop])
                room -= stop - start
    except WireError:
        pass
    return b"".join(kept)
