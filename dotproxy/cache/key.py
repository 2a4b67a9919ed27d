"""
What makes two queries the same question.

Decides what an answer depends on: name, type, class, DO, CD, and the client subnet where that is passed on.  A query
with anything else that may matter to who answers is a question of its own.
"""

from __future__ import annotations

from dotproxy.wire.edns import DO, ECS
from dotproxy.wire.message import AD, CD, HEADER, HEADER_SIZE, IN, RD, TC, QueryInfo
from dotproxy.wire.rrtypes import META_TYPES

_ECS_CODE = ECS.to_bytes(2, "big")

#: Headers after the ID of queries for one question and nothing else, with and without OPT, to their CD.  TC does not
#: count, and upstreams do not see it.
_PLAIN = {
    HEADER.pack(0, RD | tc | ad | cd, 1, 0, 0, additionals)[2:]: cd
    for tc in (0, TC)
    for ad in (0, AD)
    for cd in (0, CD)
    for additionals in (0, 1)
}

#: A client subnet option with a whole IPv6 address (RFC 7871 §6), in octets; none is longer.
_LONGEST_ECS = 24

#: By CD and EDNS flags.
_MARKS = {(0, 0): b"\0", (CD, 0): b"\1", (0, DO): b"\2", (CD, DO): b"\3"}


def key_of(query: bytes, info: QueryInfo) -> bytes:
    """
    Return what is the same for all queries that ask the same question, b"" for one that is asked for itself alone.

    It begins with the name in lower case (RFC 4343), after which stand four octets of type and class, as in the query.
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
    Return whether a query is of a kind that servers may refuse by closing the connection, or limit more than others.

    That is: of another opcode than QUERY, with RD clear, signed, for a meta type (RFC 6895 §3.1), or of another class
    than IN.
    """
    end = info.question_end
    is_ordinary = query[2] & 0x79 == 1 and not info.is_signed and query[end - 2] << 8 | query[end - 1] == IN
    return not is_ordinary or info.qtype in META_TYPES


def name_in(key: bytes) -> bytes:
    """
    Return the name a key begins with, in wire form.
    """
    offset = 0
    while key[offset]:
        offset += key[offset] + 1
    return key[: offset + 1]
