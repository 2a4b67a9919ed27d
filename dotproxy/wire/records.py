"""
Resource records in a message (RFC 1035 §4.1.3): where they begin and end.

Decides where each record lies and whether it is whole.  Does not read rdata.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from dotproxy.errors import WireError
from dotproxy.wire.names import skip_name
from dotproxy.wire.rrtypes import OPT

#: TYPE, CLASS, TTL and RDLENGTH, which stand between a record's owner name and its rdata.
FIXED_FIELDS: Final = Struct("!HHIH")

_RECORD_CUT: Final = "record runs past the end of the message"
_RDATA_CUT: Final = "rdata runs past the end of the message"

#: The constructor of a named tuple is a Python function; on the hot path it would take longer than the rest.
_new = tuple.__new__


class Record(NamedTuple):
    """
    One record: its fixed fields, and where it and its rdata stand in the message.
    """

    start: int
    type: int
    rclass: int
    ttl: int
    rdata_at: int
    end: int


class RecordLayout(NamedTuple):
    """
    Where the records of a message stand.

    ``opt_at`` and ``opt_end`` are where the OPT record begins and ends, 0 and 0 without one; ``last_type_at`` is the
    offset of the last record's TYPE, 0 without records; ``end`` is the offset after the last record.  ``ttl_offsets``
    has the TTL of each record but the OPT, counted from the first record on as if there were no OPT.
    """

    opt_at: int
    opt_end: int
    last_type_at: int
    end: int
    ttl_offsets: list[int]


def skip_owner(octets: bytes, offset: int) -> int:
    """
    Return the offset of the fixed fields of the record at ``offset``.

    :raises WireError: if its owner is no name, or the fixed fields run past the end.
    """
    fixed_at = skip_name(octets, offset)
    if fixed_at + 10 > len(octets):
        raise WireError(_RECORD_CUT)
    return fixed_at


def walk(octets: bytes, offset: int, count: int) -> Iterator[Record]:
    """
    Yield ``count`` records that begin at ``offset``.

    :raises WireError: at the first that is not whole.
    """
    for _ in range(count):
        fixed_at = skip_owner(octets, offset)
        rtype, rclass, ttl, rdlength = FIXED_FIELDS.unpack_from(octets, fixed_at)
        end = fixed_at + 10 + rdlength
        if end > len(octets):
            raise WireError(_RDATA_CUT)
        yield _new(Record, (offset, rtype, rclass, ttl, fixed_at + 10, end))
        offset = end


def scan_records(octets: bytes, offset: int, before: int, additionals: int) -> RecordLayout:
    """
    Walk the records that begin at ``offset``: ``before`` of them stand before the additional section.

    One pass without a call or an object for each record: each response passes here, and may have 5,900 of them.

    :raises WireError: if one is not whole, or OPT stands twice or outside the additional section (RFC 6891 §6.1.1).
    """
    ttl_offsets: list[int] = []
    opt_at = opt_end = type_at = 0
    origin, size = offset, len(octets)
    for number in range(before + additionals):
        start = offset
        # The usual owner is a pointer; skip_name is for any other.
        type_at = offset + 2 if offset < size and octets[offset] >= 0xC0 else skip_name(octets, offset)
        if type_at + 10 > size:
            raise WireError(_RECORD_CUT)
        offset = type_at + 10 + (octets[type_at + 8] << 8 | octets[type_at + 9])
        if offset > size:
            raise WireError(_RDATA_CUT)
        if octets[type_at + 1] != OPT or octets[type_at]:
            ttl_offsets.append(type_at + 4 - origin)
            continue
        if opt_at or number < before or octets[start]:
            raise WireError("OPT twice or out of place")
        opt_at, opt_end = start, offset
        origin += opt_end - opt_at
    return _new(RecordLayout, (opt_at, opt_end, type_at, offset, ttl_offsets))
