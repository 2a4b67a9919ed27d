"""
Where a zone transfer ends (RFC 5936 §2.2, RFC 1995 §4).

Decides whether a message belongs to a transfer and whether it is the last one; keeps no records.

AXFR is the zone's SOA, its other records, and the SOA again.  IXFR is the new SOA; then for each step the old SOA, the
removed records, the next SOA and the added records; and the new SOA again; or one SOA alone if nothing has changed.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.wire.message import HEADER, HEADER_SIZE, QR, QueryInfo
from dotproxy.wire.names import skip_name
from dotproxy.wire.records import Record, walk
from dotproxy.wire.rrtypes import IXFR, SOA


class Transfer:
    """
    One transfer, message by message.  ``is_over`` after its last message; ``is_refused`` if that was an error, before
    any record of the zone.
    """

    def __init__(self, query: bytes, info: QueryInfo) -> None:
        self._query = query
        self._question = query[HEADER_SIZE : info.question_end]
        self._may_be_differences = info.qtype == IXFR
        self._have = _serial_in(query, info) if self._may_be_differences else None
        self._records = 0
        self._newest = b""
        self._is_differences = False
        self._adds: bytes | None = None
        self.is_over = False
        self.is_refused = False

    def take(self, message: bytes) -> None:
        """
        Process the next message.

        :raises WireError: if it does not belong to this transfer.
        """
        if len(message) < HEADER_SIZE:
            raise WireError("shorter than a header")
        _, flags, questions, answers, _, _ = HEADER.unpack_from(message)
        if not flags & QR or (message[2] ^ self._query[2]) & 0x78:
            raise WireError("no reply to a query")
        offset = HEADER_SIZE
        if questions:
            offset += len(self._question)
            if questions > 1 or message[HEADER_SIZE:offset].lower() != self._question.lower():
                raise WireError("a message of some other transfer")
        if flags & 15 or not (answers or self._records):
            # An error ends it (RFC 5936 §2.2); so does an answer that does not begin with the zone's SOA.
            self.is_over = True
            self.is_refused = not self._records
            return
        for record in walk(message, offset, answers):
            if self.is_over:
                raise WireError("records after the end of a transfer")
            self._take_record(message, record)
        if self._records == 1 and self._have and _is_current(self._have, self._newest):
            self.is_over = True

    def _take_record(self, message: bytes, record: Record) -> None:
        self._records += 1
        if record.type != SOA:
            if self._records == 1:
                raise WireError("a transfer that does not begin with an SOA")
            return
        serial = _serial(message, record)
        if self._records == 1:
            self._newest = serial
        elif self._records == 2 and self._may_be_differences and serial != self._newest:
            self._is_differences = True
        elif not self._is_differences:
            self.is_over = True
        elif self._adds is None:
            self._adds = serial  # the SOA between what goes and what comes
        else:
            self.is_over = self._adds == self._newest
            self._adds = None


def _serial_in(query: bytes, info: QueryInfo) -> bytes | None:
    """
    Return the serial that an IXFR query has (RFC 1995 §3), None without one.
    """
    try:
        for record in walk(query, info.question_end, query[8] << 8 | query[9]):
            if record.type == SOA:
                return _serial(query, record)
    except WireError:
        pass
    return None


def _is_current(have: bytes, newest: bytes) -> bool:
    """
    Return whether a client with serial ``have`` is up to date (RFC 1982 §3.2).
    """
    return (int.from_bytes(have, "big") - int.from_bytes(newest, "big")) % 2**32 < 2**31


def _serial(message: bytes, record: Record) -> bytes:
    at = skip_name(message, skip_name(message, record.rdata_at))
    if at + 20 > record.end:
        raise WireError("an SOA that is too short")
    return message[at : at + 4]
