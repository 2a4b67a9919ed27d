"""
The little a forwarder must know of a message: its header, its question, its OPT (RFC 1035 §4.1).

Decides whether octets are a query that can be forwarded, and what a querier is told if they are not.
Looks into no rdata and keeps no copy: a ``QueryInfo`` is offsets into the octets it was made from.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from dotproxy.errors import WireError
from dotproxy.wire.edns import OPT
from dotproxy.wire.names import skip_name, skip_question_name

HEADER = Struct("!6H")
HEADER_SIZE = 12
MAX_MESSAGE = 65535

QR = 0x8000
OPCODE = 0x7800
AA = 0x0400
TC = 0x0200
RD = 0x0100
RA = 0x0080
AD = 0x0020
CD = 0x0010

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

#: A client without EDNS takes this much over UDP (RFC 1035 §4.2.1), and nobody less (RFC 6891 §6.2.3).
MIN_UDP_SIZE = 512

#: SIG, which in a query can only be a SIG(0), and TSIG.
_SIGNATURES = (24, 250)

_OPT_FIXED = Struct("!HHBBHH")

#: Counts of a query with one record after its question, and how that begins if it is an OPT: what most look like.
_ONE_ADDITIONAL = b"\0\0\0\0\0\1"
_OPT_HEAD = b"\0\0\x29"

#: A named tuple is made by a function in Python, which here takes longer than to look at the header.
_new = tuple.__new__


class QueryInfo(NamedTuple):
    """
    What was seen of a query.

    ``opt_at`` is the offset of its OPT record, 0 without one; ``udp_size`` what its sender takes over
    UDP, in octets; ``edns_flags`` the flags of its OPT (DO and the rest); ``opt_end`` the offset after that;
    ``is_signed`` whether it ends in a TSIG or SIG(0).  Of a query without question, which can only be one for
    a cookie (RFC 7873 §5.4), ``question_end`` is the offset after the header.

    ``response_options`` are the EDNS options that a response gets in addition, ``forwarded_options`` those of the query
    that upstreams get: both in wire form.
    """

    question_end: int
    qtype: int
    opt_at: int
    udp_size: int
    edns_flags: int
    opt_end: int = 0
    is_signed: bool = False
    response_options: bytes = b""
    forwarded_options: bytes = b""


def parse_query(octets: bytes) -> QueryInfo:
    """
    Look at a query.

    :raises WireError: if it is not one that can be forwarded; its ``rcode`` says what to answer.
        Below 12 octets, or with QR set, that is nothing: such a message must never be answered, or two
        servers could talk to each other for ever.
    """
    if len(octets) < HEADER_SIZE:
        raise WireError("shorter than a header")
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(octets)
    if flags & QR:
        raise WireError("not a query")
    if flags & OPCODE:
        # RFC 8906 §3.1.4: NOTIMP, whether or not the rest can be parsed.
        raise WireError("opcode not implemented", NOTIMP)
    if questions > 1 or (not questions and not additionals):
        raise WireError(f"{questions} questions", FORMERR)  # RFC 9619 §4
    try:
        if questions:
            name_end = skip_question_name(octets, HEADER_SIZE)
            question_end = name_end + 4
            if question_end > len(octets):
                raise WireError("question runs past the end of the message")
            qtype = octets[name_end] << 8 | octets[name_end + 1]
        else:
            question_end, qtype = HEADER_SIZE, 0
        if not (answers or authorities or additionals):
            return _new(QueryInfo, (question_end, qtype, 0, MIN_UDP_SIZE, 0, 0, False, b"", b""))
        if octets[6:HEADER_SIZE] == _ONE_ADDITIONAL and octets[question_end : question_end + 3] == _OPT_HEAD:
            opt_at, opt_end, last_type = question_end, question_end + 11, OPT
            if opt_end <= len(octets):
                opt_end += octets[opt_end - 2] << 8 | octets[opt_end - 1]
            if opt_end > len(octets):
                raise WireError("OPT runs past the end of the message")
        else:
            opt_at, opt_end, last_type, _ = sections_of(octets, question_end, answers + authorities, additionals)
    except WireError as error:
        error.rcode = FORMERR
        raise
    is_signed = bool(additionals) and last_type in _SIGNATURES
    if not opt_at:
        return QueryInfo(question_end, qtype, 0, MIN_UDP_SIZE, 0, 0, is_signed)
    _, udp_size, _, version, edns_flags, _ = _OPT_FIXED.unpack_from(octets, opt_at + 1)
    if version:
        raise WireError(f"EDNS version {version}", BADVERS)  # RFC 6891 §6.1.3
    udp_size = max(udp_size, MIN_UDP_SIZE)
    return _new(QueryInfo, (question_end, qtype, opt_at, udp_size, edns_flags, opt_end, is_signed, b"", b""))


def question_of(octets: bytes) -> int:
    """
    Return the offset after the question of any message that has exactly one, else 0.
    """
    if len(octets) < HEADER_SIZE or octets[4:6] != b"\0\1":
        return 0
    try:
        end = skip_question_name(octets, HEADER_SIZE) + 4
    except WireError:
        return 0
    return end if end <= len(octets) else 0


def edns_flags_of(octets: bytes) -> int | None:
    """
    Return the flags of the first OPT that can be read in a message of at least 12 octets, None without one.
    """
    _, _, questions, answers, authorities, additionals = HEADER.unpack_from(octets)
    offset, size = HEADER_SIZE, len(octets)
    try:
        for _ in range(questions):
            offset = skip_question_name(octets, offset) + 4
        for _ in range(answers + authorities + additionals):
            fixed_at = skip_name(octets, offset)
            if fixed_at + 10 > size:
                return None
            rtype, _, _, _, edns_flags, rdlength = _OPT_FIXED.unpack_from(octets, fixed_at)
            if rtype == OPT and not octets[offset]:
                return int(edns_flags)
            offset = fixed_at + 10 + rdlength
    except WireError:
        pass
    return None


def opt_of(octets: bytes, question_end: int) -> int:
    """
    Return the offset of the one well-placed OPT record of a message, 0 if it has none.

    :raises WireError: if the records cannot be walked, or OPT stands twice or where it must not.
    """
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(octets)
    return sections_of(octets, question_end, answers + authorities, additionals)[0]


def sections_of(octets: bytes, offset: int, before: int, additionals: int) -> tuple[int, int, int, int]:
    """
    Walk the records after a question, of which ``before`` stand before the additional section.

    Return where the OPT record begins and ends, 0 and 0 without one, the type of the last record, and where that
    ends.

    :raises WireError: if they cannot be walked, or OPT stands twice or where it must not (RFC 6891 §6.1.1).
    """
    opt_at = opt_end = rtype = 0
    size = len(octets)
    for number in range(before + additionals):
        start = offset
        # The usual owner is a pointer; anything else is walked.
        offset = offset + 2 if offset < size and octets[offset] >= 0xC0 else skip_name(octets, offset)
        if offset + 10 > size:
            raise WireError("record runs past the end of the message")
        rtype = octets[offset] << 8 | octets[offset + 1]
        offset += 10 + (octets[offset + 8] << 8 | octets[offset + 9])
        if offset > size:
            raise WireError("rdata runs past the end of the message")
        if rtype == OPT:
            if opt_at or number < before or octets[start]:
                raise WireError("OPT twice or out of place")
            opt_at, opt_end = start, offset
    return opt_at, opt_end, rtype, offset
