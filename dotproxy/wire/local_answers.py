"""
Local answers: loopback addresses, negative responses that can be cached, minimal responses to ANY.

Decides their octets (RFC 6303 §3, RFC 2308, RFC 8482).
"""

from __future__ import annotations

from struct import Struct

from dotproxy.wire.edns import DO, opt_record
from dotproxy.wire.message import AA, CD, HEADER, HEADER_SIZE, QR, RA, RD, QueryInfo
from dotproxy.wire.names import from_text
from dotproxy.wire.records import FIXED_FIELDS
from dotproxy.wire.responses import OUR_UDP_SIZE
from dotproxy.wire.rrtypes import AAAA, ANY, HINFO, SOA, A

#: TTL of local answers and their SOA, in seconds (RFC 6303 §3 recommends 10,800).
TTL = 10800

_LOOPBACK = {A: b"\x7f\0\0\1", AAAA: b"\0" * 15 + b"\1"}
_SOA_REST = from_text("nobody.invalid.") + Struct("!5I").pack(1, 3600, 1200, 604800, TTL)


def negative(query: bytes, info: QueryInfo, rcode: int, zone: bytes) -> bytes:
    """
    Return NXDOMAIN or, with ``rcode`` 0, no data, with the SOA of ``zone`` that lets it be cached.
    """
    rdata = zone + _SOA_REST
    return _message(query, info, rcode, b"", 0, zone + FIXED_FIELDS.pack(SOA, 1, TTL, len(rdata)) + rdata)


def loopback(query: bytes, info: QueryInfo, zone: bytes) -> bytes:
    """
    Return the loopback address of QTYPE, both for ANY, no data for any other type.
    """
    types = (A, AAAA) if info.qtype == ANY else (info.qtype,)
    rdatas = [(rtype, _LOOPBACK[rtype]) for rtype in types if rtype in _LOOPBACK]
    if not rdatas:
        return negative(query, info, 0, zone)
    answers = b"".join(b"\xc0\x0c" + FIXED_FIELDS.pack(rtype, 1, TTL, len(rdata)) + rdata for rtype, rdata in rdatas)
    return _message(query, info, 0, answers, len(rdatas), b"")


def minimal_any(query: bytes, info: QueryInfo) -> bytes:
    """
    Return a response to ANY with one HINFO record (RFC 8482 §4.2).
    """
    rdata = b"\x07RFC8482\0"
    record = b"\xc0\x0c" + FIXED_FIELDS.pack(HINFO, 1, TTL, len(rdata)) + rdata
    return _message(query, info, 0, record, 1, b"", is_ours=False)


def _message(
    query: bytes,
    info: QueryInfo,
    rcode: int,
    answers: bytes,
    count: int,
    authority: bytes,
    *,
    is_ours: bool = True,
) -> bytes:
    ident, flags = query[0] << 8 | query[1], query[2] << 8 | query[3]
    opt = opt_record(OUR_UDP_SIZE, 0, info.edns_flags & DO, info.response_options) if info.opt_at else b""
    ours = QR | (AA if is_ours else 0) | flags & (RD | CD) | RA | rcode
    header = HEADER.pack(ident, ours, 1, count, 1 if authority else 0, 1 if opt else 0)
    return header + query[HEADER_SIZE : info.question_end] + answers + authority + opt
