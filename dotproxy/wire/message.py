"""
The header, question and OPT of a message (RFC 1035 §4.1, RFC 6891): what a forwarder has to know of it.

Decides whether octets are a query that can be forwarded, and which rcode the client gets if they are not.  Reads no
rdata and copies nothing: a ``QueryInfo`` holds offsets into the octets that it was made from.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from dotproxy.errors import WireError
from dotproxy.wire.edns import OPT_SIZE
from dotproxy.wire.names import skip_question_name
from dotproxy.wire.records import RecordLayout, scan_records, skip_owner
from dotproxy.wire.rrtypes import OPT, SIGNATURE_TYPES

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

#: Octets that a client without EDNS accepts over UDP (RFC 1035 §4.2.1); smaller sizes count as this (RFC 6891 §6.2.3).
MIN_UDP_SIZE = 512

#: The class of nearly all questions (RFC 1035 §3.2.4).
IN = 1

_OPT_FIXED = Struct("!HHBBHH")

#: The counts of most queries, QDCOUNT to ARCOUNT: a question, and an additional record or none.
_QUESTION_ALONE = b"\0\1\0\0\0\0\0\0"
_QUESTION_AND_ONE = b"\0\1\0\0\0\0\0\1"

#: How an OPT begins: the root, and its type.
_OPT_HEAD = b"\0" + OPT.to_bytes(2, "big")

#: The constructor of a named tuple is a Python function; here it would take longer than parsing the header.
_new = tuple.__new__


class QueryInfo(NamedTuple):
    """
    The parts of a query that are read.

    ``question_end`` is the offset after the question; of a query without one, which can only ask for a cookie
    (RFC 7873 §5.4), the offset after the header.  ``opt_at`` and ``opt_end`` are where the OPT begins and ends, 0 and 0
    without one; ``udp_size`` is the UDP payload size in octets; ``edns_flags`` the flags of the OPT (DO and the
    rest); ``is_signed`` whether the query ends in a TSIG or SIG(0).

    ``response_options`` are EDNS options added to the response, ``forwarded_options`` those of the query that are
    forwarded: both in wire form.
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
    Parse a query's header, question and OPT.

    :raises WireError: if it is not a query that can be forwarded; ``rcode`` is what to answer.  It is None below 12
        octets and with QR set: such a message must never be answered, or two servers could answer each other for ever.
    """
    if len(octets) < HEADER_SIZE:
        raise WireError("shorter than a header")
    flags = octets[2] << 8
    if flags & QR:
        raise WireError("not a query")
    if flags & OPCODE:
        # RFC 8906 §3.1.4: NOTIMP, whether or not the rest can be parsed.
        raise WireError("opcode not implemented", NOTIMP)
    try:
        counts = octets[4:HEADER_SIZE]
        if counts == _QUESTION_AND_ONE:
            end = skip_question_name(octets, HEADER_SIZE) + 4
            opt_end = end + OPT_SIZE
            if octets[end : end + 3] == _OPT_HEAD and opt_end <= len(octets):
                opt_end += octets[opt_end - 2] << 8 | octets[opt_end - 1]
                if opt_end <= len(octets):
                    return _info_with_opt(octets, end, end, opt_end)
        elif counts == _QUESTION_ALONE:
            end = skip_question_name(octets, HEADER_SIZE) + 4
            if end <= len(octets):
                qtype = octets[end - 4] << 8 | octets[end - 3]
                return _new(QueryInfo, (end, qtype, 0, MIN_UDP_SIZE, 0, 0, False, b"", b""))
        return _parse_unusual(octets)
    except WireError as error:
        if error.rcode is None:
            error.rcode = FORMERR
        raise


def _parse_unusual(octets: bytes) -> QueryInfo:
    """
    Parse a query that is not a question alone, or with an OPT.
    """
    _, _, questions, answers, authorities, additionals = HEADER.unpack_from(octets)
    if questions > 1 or (not questions and not additionals):
        raise WireError(f"{questions} questions")  # RFC 9619 §4
    end = skip_question_name(octets, HEADER_SIZE) + 4 if questions else HEADER_SIZE
    if end > len(octets):
        raise WireError("question runs past the end of the message")
    layout = scan_records(octets, end, answers + authorities, additionals)
    last_type = octets[layout.last_type_at] << 8 | octets[layout.last_type_at + 1]
    is_signed = bool(additionals) and last_type in SIGNATURE_TYPES
    if layout.opt_at:
        info = _info_with_opt(octets, end, layout.opt_at, layout.opt_end)
        return info._replace(is_signed=is_signed, qtype=info.qtype if questions else 0)
    qtype = octets[end - 4] << 8 | octets[end - 3] if questions else 0
    return QueryInfo(end, qtype, 0, MIN_UDP_SIZE, 0, 0, is_signed)


def _info_with_opt(octets: bytes, end: int, opt_at: int, opt_end: int) -> QueryInfo:
    """
    Return what is known of a query whose question ends at ``end``.
    """
    _, udp_size, _, version, edns_flags, _ = _OPT_FIXED.unpack_from(octets, opt_at + 1)
    if version:
        raise WireError(f"EDNS version {version}", BADVERS)  # RFC 6891 §6.1.3
    udp_size = max(udp_size, MIN_UDP_SIZE)
    qtype = octets[end - 4] << 8 | octets[end - 3]
    return _new(QueryInfo, (end, qtype, opt_at, udp_size, edns_flags, opt_end, False, b"", b""))


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
    offset = HEADER_SIZE
    try:
        for _ in range(questions):
            offset = skip_question_name(octets, offset) + 4
        for _ in range(answers + authorities + additionals):
            fixed_at = skip_owner(octets, offset)
            rtype, _, _, _, edns_flags, rdlength = _OPT_FIXED.unpack_from(octets, fixed_at)
            if rtype == OPT and not octets[offset]:
                return int(edns_flags)
            offset = fixed_at + 10 + rdlength
    except WireError:
        pass
    return None


def records_of(octets: bytes, question_end: int) -> RecordLayout:
    """
    Return where the records of a message stand, of which the first begins at ``question_end``.

    :raises WireError: if one is not whole, or OPT stands twice or outside the additional section.
    """
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(octets)
    return scan_records(octets, question_end, answers + authorities, additionals)
