"""
An answer taken apart, so that it can be given to any client that asks the same: records, and where their TTLs stand.

Decides what of an answer belongs to it and what to the hop it came over, and how it ages (RFC 1035 §3.2.1: TTL 0 is
the least).  How long it may be kept is ``policy``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from dotproxy.errors import WireError
from dotproxy.wire.edns import OPT, OPT_SIZE, options_of
from dotproxy.wire.message import HEADER, HEADER_SIZE, sections_of
from dotproxy.wire.names import skip_name

#: A named tuple is made by a function in Python, which on the hot path takes as long as all the rest.
_new = tuple.__new__

_TTL = Struct("!I")
_FIXED = Struct("!HHIH")


class Answer(NamedTuple):
    """
    What an upstream said to a question.

    ``head`` is its header from the flags to NSCOUNT (8 octets), ``additionals`` its ARCOUNT without OPT; ``body`` its
    records without OPT, in wire form, whose names may point at the question, which ends at ``end``; ``ttls`` the
    offset in ``body`` of each TTL; ``extended`` the upper 8 bits of its rcode; ``options`` the EDNS options that are
    for the client, in wire form.
    """

    head: bytes
    additionals: int
    body: bytes
    ttls: tuple[int, ...]
    extended: int
    options: bytes
    end: int

    @property
    def rcode(self) -> int:
        """
        The whole rcode.
        """
        return self.extended << 4 | self.head[1] & 15

    def records(self) -> Iterator[tuple[int, int, int, int, int]]:
        """
        Yield each record's section (0 is the answer), type, TTL, and where in ``body`` its rdata begins and ends.
        """
        answers, authorities = self.head[4] << 8 | self.head[5], self.head[6] << 8 | self.head[7]
        for number, at in enumerate(self.ttls):
            rtype, _, ttl, rdlength = _FIXED.unpack_from(self.body, at - 4)
            section = 0 if number < answers else 1 if number < answers + authorities else 2
            yield section, rtype, ttl, at + 6, at + 6 + rdlength

    def aged(self, seconds: int) -> bytes:
        """
        Return ``body`` with each TTL less by so many seconds, and none below 0.
        """
        body = bytearray(self.body)
        for at in self.ttls:
            ttl = body[at] << 24 | body[at + 1] << 16 | body[at + 2] << 8 | body[at + 3]
            _TTL.pack_into(body, at, ttl - seconds if ttl > seconds else 0)
        return bytes(body)

    def without_records(self) -> Answer:
        """
        Return the same with nothing in it but its rcode and options.
        """
        return self._replace(head=self.head[:4] + bytes(4), additionals=0, body=b"", ttls=())

    def with_ttls(self, ttls: list[int]) -> Answer:
        """
        Return the same with these TTLs.
        """
        body = bytearray(self.body)
        for at, ttl in zip(self.ttls, ttls, strict=True):
            _TTL.pack_into(body, at, ttl)
        return self._replace(body=bytes(body))


def take_apart(reply: bytes, end: int, dropped: frozenset[int]) -> Answer:
    """
    Take a reply apart whose question ends at ``end``; EDNS options of the ``dropped`` codes are for us alone.

    :raises WireError: if its records cannot be walked, or its OPT is malformed, twice there or out of place.
    """
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(reply)
    before = answers + authorities
    ttls: list[int] = []
    offset, size = end, len(reply)
    opt_at = opt_end = 0
    for number in range(before + additionals):
        start = offset
        # The usual owner is a pointer; anything else is walked.
        offset = offset + 2 if offset < size and reply[offset] >= 0xC0 else skip_name(reply, offset)
        if offset + 10 > size:
            raise WireError("record runs past the end of the message")
        if reply[offset + 1] == OPT and not reply[offset]:
            if opt_at or number < before or reply[start]:
                raise WireError("OPT twice or out of place")
            opt_at = start
            offset += 10 + (reply[offset + 8] << 8 | reply[offset + 9])
            opt_end = offset
        else:
            ttls.append(offset + 4 - end if not opt_at else offset + 4 - end - (opt_end - opt_at))
            offset += 10 + (reply[offset + 8] << 8 | reply[offset + 9])
        if offset > size:
            raise WireError("rdata runs past the end of the message")
    if not opt_at:
        return _new(Answer, (reply[2:10], additionals, reply[end:offset], tuple(ttls), 0, b"", end))
    body = reply[end:opt_at] + reply[opt_end:offset] if opt_end < offset else reply[end:opt_at]
    options = options_without(reply, opt_at, opt_end, dropped) if opt_end - opt_at > OPT_SIZE else b""
    return _new(Answer, (reply[2:10], additionals - 1, body, tuple(ttls), reply[opt_at + 5], options, end))


def error_alone(reply: bytes, flags: bytes, end: int, dropped: frozenset[int]) -> Answer:
    """
    Take an error apart that came without its question, which ends at ``end``; it gets these flags.

    :raises WireError: as ``take_apart``.
    """
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(reply)
    opt_at, opt_end, _, _ = sections_of(reply, HEADER_SIZE, answers + authorities, additionals)
    options = options_without(reply, opt_at, opt_end, dropped) if opt_at else b""
    return Answer(flags + b"\0\1\0\0\0\0", 0, b"", (), 0, options, end)


def options_without(octets: bytes, opt_at: int, opt_end: int, dropped: frozenset[int]) -> bytes:
    """
    Return the options of an OPT but for those of some codes, in wire form.

    :raises WireError: if one runs past the OPT's end.
    """
    return b"".join(
        [octets[start:end] for code, start, end in options_of(octets, opt_at, opt_end) if code not in dropped]
    )
