"""
A parsed response, which is kept and built into a response for any client with the same question.

Decides what of a message is kept and what belongs to one hop only, and how TTLs age (RFC 1035 §3.2.1: the least is 0).
How long a response may be kept is decided in ``cache.ttl``.

A message of 65,535 octets can have 5,900 records, and any client may ask for it as often as it likes.  So no step that
is taken for each client goes from record to record: what does not fit is cut first (``first_records``), and the TTLs of
many records are changed all at once, with the body as one large number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import compress
from struct import Struct
from typing import Final, NamedTuple

from dotproxy.wire.edns import OPT_SIZE, options_of
from dotproxy.wire.message import HEADER, HEADER_SIZE, records_of
from dotproxy.wire.records import FIXED_FIELDS, scan_records

#: The constructor of a named tuple is a Python function; on the hot path it would take longer than the rest.
_new = tuple.__new__

_TTL: Final = Struct("!I")
_TTL_BITS: Final = 0xFFFFFFFF

#: A response of more records has ``ttl_marks``: from here on it takes less time to change all TTLs at once.
MAX_TTL_OFFSETS: Final = 16


class BodyRecord(NamedTuple):
    """
    A record of a parsed response: its ``section`` (0 is the answer section), and where in the body its rdata stands.
    """

    section: int
    type: int
    ttl: int
    rdata_at: int
    end: int


class ParsedResponse(NamedTuple):
    """
    What an upstream responded to a question.

    ``head`` is the header from the flags to NSCOUNT (8 octets), ``additional_count`` its ARCOUNT without OPT; ``body``
    the records without OPT, in wire form, whose names may point at the question, which ends at ``question_end``;
    ``extended_rcode`` the upper 8 bits of the rcode; ``options`` the EDNS options for the client, in wire form.

    ``ttl_offsets`` is the offset in ``body`` of each TTL; of more than ``MAX_TTL_OFFSETS`` records it is empty, and
    ``ttl_marks`` has as many octets as ``body``: 1 for the last octet of a TTL, else 0.
    """

    head: bytes
    additional_count: int
    body: bytes
    ttl_offsets: tuple[int, ...]
    extended_rcode: int
    options: bytes
    question_end: int
    ttl_marks: bytes = b""

    @property
    def rcode(self) -> int:
        """
        The whole rcode, 12 bits.
        """
        return self.extended_rcode << 4 | self.head[1] & 15

    @property
    def answer_count(self) -> int:
        """
        ANCOUNT.
        """
        return self.head[4] << 8 | self.head[5]

    @property
    def authority_count(self) -> int:
        """
        NSCOUNT.
        """
        return self.head[6] << 8 | self.head[7]

    def all_ttl_offsets(self) -> Sequence[int]:
        """
        Return the offset in ``body`` of each TTL.
        """
        marks = self.ttl_marks
        return [at - 3 for at in compress(range(len(marks)), marks)] if marks else self.ttl_offsets

    def records(self) -> Iterator[BodyRecord]:
        """
        Yield each record.
        """
        answers = self.answer_count
        before_additionals = answers + self.authority_count
        for number, at in enumerate(self.all_ttl_offsets()):
            rtype, _, ttl, rdlength = FIXED_FIELDS.unpack_from(self.body, at - 4)
            section = 0 if number < answers else 1 if number < before_additionals else 2
            yield BodyRecord(section, rtype, ttl, at + 6, at + 6 + rdlength)

    def aged_body(self, seconds: int) -> bytes:
        """
        Return ``body`` with each TTL less by so many seconds, and none below 0.
        """
        if self.ttl_marks:
            return _aged_at_once(self.body, self.ttl_marks, seconds)
        body = bytearray(self.body)
        for at in self.ttl_offsets:
            ttl = body[at] << 24 | body[at + 1] << 16 | body[at + 2] << 8 | body[at + 3]
            _TTL.pack_into(body, at, ttl - seconds if ttl > seconds else 0)
        return bytes(body)

    def first_records(self, room: int) -> tuple[int, ParsedResponse]:
        """
        Return how many records from the first fit into so many octets, and the same response with those in its body.

        Its header still counts them all.
        """
        body, marks, offsets = self.body, self.ttl_marks, self.ttl_offsets
        if room >= len(body):
            return marks.count(1) if marks else len(offsets), self
        if marks:
            last = marks.rfind(1, 0, max(room, 0)) - 3
            while last >= 0 and _record_end(body, last) > room:  # true once at most
                last = marks.rfind(1, 0, last) - 3
            end = _record_end(body, last) if last >= 0 else 0
            return marks.count(1, 0, end), self._replace(body=body[:end], ttl_marks=marks[:end])
        count = bisect_right(offsets, room)
        while count and _record_end(body, offsets[count - 1]) > room:
            count -= 1
        end = _record_end(body, offsets[count - 1]) if count else 0
        return count, self._replace(body=body[:end], ttl_offsets=offsets[:count])

    def without_records(self) -> ParsedResponse:
        """
        Return the same with its rcode and options alone.
        """
        head = self.head[:4] + bytes(4)
        return self._replace(head=head, additional_count=0, body=b"", ttl_offsets=(), ttl_marks=b"")

    def with_ttls(self, ttls: Sequence[int]) -> ParsedResponse:
        """
        Return the same with these TTLs, one for each record.
        """
        body = bytearray(self.body)
        for at, ttl in zip(self.all_ttl_offsets(), ttls, strict=True):
            _TTL.pack_into(body, at, ttl)
        return self._replace(body=bytes(body))

    def with_ttl(self, ttl: int) -> ParsedResponse:
        """
        Return the same with this TTL for all records.
        """
        if not self.ttl_marks:
            return self.with_ttls([ttl] * len(self.ttl_offsets))
        lowest = int.from_bytes(self.ttl_marks, "big")
        value = int.from_bytes(self.body, "big") & ~(lowest * _TTL_BITS) | lowest * ttl
        return self._replace(body=value.to_bytes(len(self.body), "big"))


def _record_end(body: bytes, ttl_at: int) -> int:
    return ttl_at + 6 + (body[ttl_at + 4] << 8 | body[ttl_at + 5])


def _aged_at_once(body: bytes, marks: bytes, seconds: int) -> bytes:
    """
    Subtract from all TTLs at once.

    ``body`` and ``marks`` are numbers, in the second of which the lowest bit of each TTL is set.  The uppermost bit of
    each TTL, which is never in use (RFC 2181 §8), is set before: where it is gone afterwards, the TTL was too small.
    """
    lowest = int.from_bytes(marks, "big")
    uppermost = lowest << 31
    value = (int.from_bytes(body, "big") | uppermost) - lowest * min(seconds, 0x7FFFFFFF)
    left = value & uppermost
    if left == uppermost:
        value ^= uppermost
    else:
        value &= ~(lowest * _TTL_BITS) | (left >> 31) * (_TTL_BITS >> 1)
    return value.to_bytes(len(body), "big")


def parse_reply(reply: bytes, question_end: int, dropped_options: frozenset[int]) -> ParsedResponse:
    """
    Parse an upstream's reply, without the EDNS options of the ``dropped_options`` codes, which are for this hop.

    :raises WireError: if a record is not whole, or the OPT is malformed, twice there or out of place.
    """
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(reply)
    opt_at, opt_end, _, end, ttls = scan_records(reply, question_end, answers + authorities, additionals)
    extended_rcode, options = 0, b""
    if opt_at:
        additionals -= 1
        extended_rcode = reply[opt_at + 5]
        if opt_end - opt_at > OPT_SIZE:
            options = options_without(reply, opt_at, opt_end, dropped_options)
        body = reply[question_end:opt_at] + reply[opt_end:end] if opt_end < end else reply[question_end:opt_at]
    else:
        body = reply[question_end:end]
    if len(ttls) > MAX_TTL_OFFSETS:
        return make_parsed_response(reply[2:10], additionals, body, tuple(ttls), extended_rcode, options, question_end)
    parts = (reply[2:10], additionals, body, tuple(ttls), extended_rcode, options, question_end, b"")
    return _new(ParsedResponse, parts)


def make_parsed_response(
    head: bytes,
    additional_count: int,
    body: bytes,
    ttl_offsets: tuple[int, ...],
    extended_rcode: int,
    options: bytes,
    question_end: int,
) -> ParsedResponse:
    """
    Return a parsed response with the offsets of its TTLs, or with marks if they are many.
    """
    if len(ttl_offsets) <= MAX_TTL_OFFSETS:
        return ParsedResponse(head, additional_count, body, ttl_offsets, extended_rcode, options, question_end)
    marks = bytearray(len(body))
    for at in ttl_offsets:
        marks[at + 3] = 1
    return ParsedResponse(head, additional_count, body, (), extended_rcode, options, question_end, bytes(marks))


def parse_error_without_question(
    reply: bytes, flags: bytes, question_end: int, dropped_options: frozenset[int]
) -> ParsedResponse:
    """
    Parse an error that came without its question (RFC 1035 §4.1.1); it gets these flags, 2 octets, and no records.

    :raises WireError: as ``parse_reply``.
    """
    layout = records_of(reply, HEADER_SIZE)
    options = options_without(reply, layout.opt_at, layout.opt_end, dropped_options) if layout.opt_at else b""
    return ParsedResponse(flags + b"\0\1\0\0\0\0", 0, b"", (), 0, options, question_end)


def options_without(octets: bytes, opt_at: int, opt_end: int, dropped: frozenset[int]) -> bytes:
    """
    Return the options of an OPT but for those of some codes, in wire form.

    :raises WireError: if one runs past the OPT's end.
    """
    return b"".join(
        [octets[start:end] for code, start, end in options_of(octets, opt_at, opt_end) if code not in dropped]
    )
