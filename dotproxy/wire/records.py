"""
Resource records as places in a message (RFC 1035 §4.1.3).

Decides where each record lies.  Knows nothing of what rdata means.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from dotproxy.errors import WireError
from dotproxy.wire.names import skip_name

_FIXED = Struct("!HHIH")


class Record(NamedTuple):
    """
    One record: offsets into the message it was found in, and its fixed fields.
    """

    start: int
    type: int
    klass: int
    ttl: int
    rdata_at: int
    end: int


def walk(octets: bytes, offset: int, count: int) -> Iterator[Record]:
    """
    Yield ``count`` records that begin at ``offset``.

    :raises WireError: at the first that is not wholly inside ``octets``.
    """
    for _ in range(count):
        start = offset
        offset = skip_name(octets, offset)
        if offset + 10 > len(octets):
            raise WireError("record runs past the end of the message")
        rtype, klass, ttl, rdlength = _FIXED.unpack_from(octets, offset)
        rdata_at = offset + 10
        offset = rdata_at + rdlength
        if offset > len(octets):
            raise WireError("rdata runs past the end of the message")
        yield Record(start, rtype, klass, ttl, rdata_at, offset)
