"""
Truncation and ageing, written record by record: what ``wire.responses`` and ``wire.parsed_response`` are compared with.

It goes over every record of the whole message, which is what they must not do.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from dotproxy.errors import WireError
from dotproxy.wire.edns import DO, EDE_OPTION, OPT_SIZE, PADDING, opt_record, options_of
from dotproxy.wire.message import HEADER, HEADER_SIZE, TC, QueryInfo
from dotproxy.wire.parsed_response import ParsedResponse
from dotproxy.wire.records import walk
from dotproxy.wire.responses import OUR_UDP_SIZE
from dotproxy.wire.rrtypes import OPT

_TTL = Struct("!I")


def aged(body: bytes, offsets: Iterable[int], seconds: int) -> bytes:
    """
    Return ``body`` with the TTLs at these offsets less by so many seconds, and none below 0.
    """
    octets = bytearray(body)
    for at in offsets:
        (ttl,) = _TTL.unpack_from(octets, at)
        _TTL.pack_into(octets, at, max(0, ttl - seconds))
    return bytes(octets)


def written(query: bytes, info: QueryInfo, answer: ParsedResponse, age: int, limit: int) -> bytes:
    """
    Return an answer for a client, whole if it fits, else truncated.
    """
    rest, additionals = aged(answer.body, answer.all_ttl_offsets(), age), answer.additional_count
    if info.opt_at:
        rest += opt_record(
            OUR_UDP_SIZE, answer.extended_rcode << 4, info.edns_flags & DO, answer.options + info.response_options
        )
        additionals += 1
    whole = query[:2] + answer.head + additionals.to_bytes(2, "big") + query[HEADER_SIZE : answer.question_end] + rest
    return whole if len(whole) <= limit else truncated(whole, query, info, limit)


def truncated(reply: bytes, query: bytes, info: QueryInfo, limit: int) -> bytes:
    """
    Return as many whole records as fit, from the first, and OPT.
    """
    _, flags, _, *counts = HEADER.unpack_from(reply)
    end = cut = info.question_end
    records, opt_at, opt_end = _records_and_opt(reply, end, limit, counts)
    extended, options, errors = 0, info.response_options, b""
    room = limit - end - OPT_SIZE
    if opt_at:
        extended = reply[opt_at + 5]
        options = _as_many_as_fit(reply, opt_at, opt_end, room, dropped=frozenset((EDE_OPTION, PADDING)))
    opt_size = OPT_SIZE + len(options) if info.opt_at else 0
    kept = [0, 0, 0]
    for section, record_end in records:
        if record_end + opt_size > limit:
            break
        cut = record_end
        kept[section] += 1
    opt = b""
    if info.opt_at:
        if opt_at:
            errors = _as_many_as_fit(reply, opt_at, opt_end, limit - cut - opt_size, only=EDE_OPTION)
        opt = opt_record(OUR_UDP_SIZE, extended << 4, info.edns_flags & DO, options + errors)
        kept[2] += 1
    header = HEADER.pack(query[0] << 8 | query[1], flags | TC, 1, *kept)
    return header + query[HEADER_SIZE:end] + reply[end:cut] + opt


def _records_and_opt(reply: bytes, end: int, limit: int, counts: list[int]) -> tuple[list[tuple[int, int]], int, int]:
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
    kept: list[bytes] = []
    try:
        for code, start, stop in options_of(reply, opt_at, opt_end):
            if code not in dropped and only in (code, -1) and stop - start <= room:
                kept.append(reply[start:stop])
                room -= stop - start
    except WireError:
        pass
    return b"".join(kept)
