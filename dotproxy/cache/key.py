"""
The cache key: which queries get the same response.

Decides what a response depends on: QNAME, QTYPE, QCLASS, DO, CD, and the client subnet if it is forwarded.  A query
with anything else that may change the response has no key: it is neither cached nor joined.
"""

from __future__ import annotations

from dotproxy.wire.edns import DO, ECS
from dotproxy.wire.message import AD, CD, HEADER, HEADER_SIZE, IN, RD, TC, QueryInfo
from dotproxy.wire.rrtypes import META_TYPES

_ECS_CODE = ECS.to_bytes(2, "big")

#: From the header after the ID to CD, for queries with one question, with or without OPT.  TC is ignored, since it is
#: not forwarded.
_PLAIN = {
    HEADER.pack(0, RD | tc | ad | cd, 1, 0, 0, additionals)[2:]: cd
    for tc in (0, TC)
    for ad in (0, AD)
    for cd in (0, CD)
    for additionals in (0, 1)
}

#: The longest client subnet option, with a whole IPv6 address (RFC 7871 §6), in octets.
_LONGEST_ECS = 24

#: The octet of the key for CD and the EDNS flags.
_MARKS = {(0, 0): b"\0", (CD, 0): b"\1", (0, DO): b"\2", (CD, DO): b"\3"}


def key_of(query: bytes, info: QueryInfo) -> bytes:
    """
    Return the cache key of a query, b"" if its response is for this query only.

    The key is the QNAME in lower case (RFC 4343) and wire form, QTYPE and QCLASS, an octet for DO and CD, and the
    client subnet option.
    """
    cd = _PLAIN.get(query[2:HEADER_SIZE])
    if cd is None:
        return b""
    mark = _MARKS.get((cd, info.edns_flags))
    if mark is None or (query[11] and not info.opt_at) or info.qtype in META_TYPES:
        return b""
    passed = info.forwarded_options
    if passed and not (
        passed[:2] == _ECS_CODE and len(passed) == 4 + int.from_bytes(passed[2:4], "big") <= _LONGEST_ECS
    ):
        return b""
    end = info.question_end
    at = end - 4
    return query[HEADER_SIZE:at].lower() + query[at:end] + mark + passed


def is_unusual(query: bytes, info: QueryInfo) -> bool:
    """
    Return whether servers may close the connection on a query, or limit it more than others.

    Such queries have an opcode other than QUERY, RD clear, a signature, a meta type (RFC 6895 §3.1), or a class other
    than IN.
    """
    end = info.question_end
    is_ordinary = query[2] & 0x79 == 1 and not info.is_signed and query[end - 2] << 8 | query[end - 1] == IN
    return not is_ordinary or info.qtype in META_TYPES


def name_in(key: bytes) -> bytes:
    """
    Return the QNAME in a key, in lower case and wire form.
    """
    offset = 0
    while key[offset]:
        offset += key[offset] + 1
    return key[: offset + 1]
