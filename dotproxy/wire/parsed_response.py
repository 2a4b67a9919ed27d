"""
An answer taken apart, so that it can be given to any client that asks the same: records, and where their TTLs stand.

Decides what of an answer belongs to it and what to the hop it came over, and how it ages (RFC 1035 §3.2.1: TTL 0 is
the least).  How long it may be kept is ``policy``'s.

An answer of 65,535 octets can have 5,900 records, and any client may ask for it as often as it likes.  So no step that
is taken for each client goes from record to record: what is cut is cut first (``first_records``), and the TTLs of many
records are changed all at once, with the body as one large number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import compress
from struct import Struct
from typing import NamedTuple

from dotproxy.wire.edns import OPT_SIZE, options_of
from dotproxy.wire.message import HEADER, HEADER_SIZE, records_of
from dotproxy.wire.records import FIXED_FIELDS, scan_records

#: A named tuple is made by a function in Python, which on the hot path takes as long as all the rest.
_new = tuple.__new__

_TTL = Struct("!I")

#: An answer of more records has ``marks``: from here on it takes less time to change all TTLs at once.
MOST_OFFSETS = 16

_TTL_BITS = 0xFFFFFFFF


class Answer(NamedTuple):
    """
    What an upstream said to a question.

    ``head`` is its header from the flags to NSCOUNT (8 octets), ``additionals`` its ARCOUNT without OPT; ``body`` its
    records without OPT, in wire form, whose names may point at the question, which ends at ``end``; ``extended`` the
    upper 8 bits of its rcode; ``options`` the EDNS options that are for the client, in wire form.

    ``ttls`` is the offset in ``body`` of each TTL; of more than ``MOST_OFFSETS`` records it is empty, and ``marks``
    has as many octets as ``body``: 1 for the last octet of a TTL, else 0.
    """

    head: bytes
    additionals: int
    body: bytes
    ttls: tuple[int, ...]
    extended: int
    options: bytes
    end: int
    marks: bytes = b""

    @property
    def rcode(self) -> int:
        """
        The whole rcode.
        """
        return self.extended << 4 | self.head[1] & 15

    def offsets(self) -> Sequence[int]:
        """
        Return the offset in ``body`` of each TTL.
        """
        return [at - 3 for at in compress(range(len(self.marks)), self.marks)] if self.marks else self.ttls

    def records(self) -> Iterator[tuple[int, int, int, int, int]]:
        """
        Yield each record's section (0 is the answer), type, TTL, and where in ``body`` its rdata begins and ends.
        """
        answers, authorities = self.head[4] << 8 | self.head[5], self.head[6] << 8 | self.head[7]
        for number, at in enumerate(self.offsets()):
            rtype, _, ttl, rdlength = FIXED_FIELDS.unpack_from(self.body, at - 4)
            section = 0 if number < answers else 1 if number < answers + authorities else 2
            yield section, rtype, ttl, at + 6, at + 6 + rdlength

    def aged(self, seconds: int) -> bytes:
        """
        Return ``body`` with each TTL less by so many seconds, and none below 0.
        """
        if self.marks:
            return _aged_at_once(self.body, self.marks, seconds)
        body = bytearray(self.body)
        for at in self.ttls:
            ttl = body[at] << 24 | body[at + 1] << 16 | body[at + 2] << 8 | body[at + 3]
            _TTL.pack_into(body, at, ttl - seconds if ttl > seconds else 0)
        return bytes(body)

    def first_records(self, room: int) -> tuple[int, Answer]:
        """
        Return how many records from the first fit into so many octets, and the same answer with those in its body.

        Its header still counts them all.
        """
        body = self.body
        if room >= len(body):
            return self.marks.count(1) if self.marks else len(self.ttls), self
        if self.marks:
            last = self.marks.rfind(1, 0, max(room, 0)) - 3
            while last >= 0 and _record_end(body, last) > room:  # which it can do once
                last = self.marks.rfind(1, 0, last) - 3
            end = _record_end(body, last) if last >= 0 else 0
            marks = self.marks[:end]
            return marks.count(1), self._replace(body=body[:end], marks=marks)
        count = bisect_right(self.ttls, room)
        while count and _record_end(body, self.ttls[count - 1]) > room:
            count -= 1
        end = _record_end(body, self.ttls[count - 1]) if count else 0
        return count, self._replace(body=body[:end], ttls=self.ttls[:count])

    def without_records(self) -> Answer:
        """
        Return the same with nothing in it but its rcode and options.
        """
        return self._replace(head=self.head[:4] + bytes(4), additionals=0, body=b"", ttls=(), marks=b"")

    def with_ttls(self, ttls: Sequence[int]) -> Answer:
        """
        Return the same with these TTLs.
        """
        body = bytearray(self.body)
        for at, ttl in zip(self.offsets(), ttls, strict=True):
            _TTL.pack_into(body, at, ttl)
        return self._replace(body=bytes(body))

    def with_ttl(self, ttl: int) -> Answer:
        """
        Return the same with this TTL for all records.
        """
        if not self.marks:
            return self.with_ttls([ttl] * len(self.ttls))
        lowest = int.from_bytes(self.marks, "big")
        value = int.from_bytes(self.body, "big") & ~(lowest * _TTL_BITS) | lowest * ttl
        return self._replace(body=value.to_bytes(len(self.body), "big"))


def _record_end(body: bytes, ttl_at: int) -> int:
    return ttl_at + 6 + (body[ttl_at + 4] << 8 | body[ttl_at + 5])


def _aged_at_once(body: bytes, marks: bytes, seconds: int) -> bytes:
    """
    Subtract from all TTLs at once: ``body`` is a number, and so are ``marks``, in which the lowest bit of each TTL is
    set.  The uppermost bit of each, which no TTL has (RFC 2181 §8), is set before: where it is gone afterwards, there
    were less than so many seconds left.
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


def take_apart(reply: bytes, end: int, dropped: frozenset[int]) -> Answer:
    """
    Take a reply apart whose question ends at ``end``; EDNS options of the ``dropped`` codes are for us alone.

    :raises WireError: if its records cannot be walked, or its OPT is malformed, twice there or out of place.
    """
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(reply)
    opt_at, opt_end, _, records_end, ttls = scan_records(reply, end, answers + authorities, additionals)
    if not opt_at:
        if len(ttls) <= MOST_OFFSETS:
            return _new(Answer, (reply[2:10], additionals, reply[end:records_end], tuple(ttls), 0, b"", end, b""))
        return answer_of(reply[2:10], additionals, reply[end:records_end], tuple(ttls), 0, b"", end)
    body = reply[end:opt_at] + reply[opt_end:records_end] if opt_end < records_end else reply[end:opt_at]
    options = options_without(reply, opt_at, opt_end, dropped) if opt_end - opt_at > OPT_SIZE else b""
    if len(ttls) <= MOST_OFFSETS:
        return _new(Answer, (reply[2:10], additionals - 1, body, tuple(ttls), reply[opt_at + 5], options, end, b""))
    return answer_of(reply[2:10], additionals - 1, body, tuple(ttls), reply[opt_at + 5], options, end)


def answer_of(
    head: bytes, additionals: int, body: bytes, ttls: tuple[int, ...], extended: int, options: bytes, end: int
) -> Answer:
    """
    Return the answer with the offsets of its TTLs, or with marks if they are many.
    """
    if len(ttls) <= MOST_OFFSETS:
        return _new(Answer, (head, additionals, body, ttls, extended, options, end, b""))
    marks = bytearray(len(body))
    for at in ttls:
        marks[at + 3] = 1
    return _new(Answer, (head, additionals, body, (), extended, options, end, bytes(marks)))


def error_alone(reply: bytes, flags: bytes, end: int, dropped: frozenset[int]) -> Answer:
    """
    Take an error apart that came without its question, which ends at ``end``; it gets these flags.

    :raises WireError: as ``take_apart``.
    """
    layout = records_of(reply, HEADER_SIZE)
    options = options_without(reply, layout.opt_at, layout.opt_end, dropped) if layout.opt_at else b""
    return Answer(flags + b"\0\1\0\0\0\0", 0, b"", (), 0, options, end)


def options_without(octets: bytes, opt_at: int, opt_end: int, dropped: frozenset[int]) -> bytes:
    """
    Return the options of an OPT but for those of some codes, in wire form.

    :raises WireError: if one runs past the OPT's end.
    """
    return b"".join(
        [octets[start:end] for code, start, end in options_of(octets, opt_at, opt_end) if code not in dropped]
    )
