"""
How long a response may be cached.

Decides the lifetime in seconds from the response and the operator's limits: TTLs (RFC 2181 §8), the SOA of negative
responses (RFC 2308 §5), and the expiry of signatures (RFC 4035 §5.3.3).  It is 0 for what must not be cached.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from dotproxy.wire.message import NOERROR, NXDOMAIN
from dotproxy.wire.parsed_response import ParsedResponse
from dotproxy.wire.rrtypes import ANY, RRSIG, SOA

_FIXED = Struct("!HHI")

#: A TTL with its uppermost bit set is 0 (RFC 2181 §8).
_MAX_TTL = 0x7FFFFFFF


class Limits(NamedTuple):
    """
    Bounds in seconds: TTLs are from ``least`` to ``most``, negative responses are cached for ``negative`` at most.
    """

    least: int = 0
    most: int = 86400
    negative: int = 3600


def freshness(answer: ParsedResponse, qtype: int, limits: Limits, now: int) -> tuple[int, ParsedResponse]:
    """
    Return the lifetime of a response in seconds, 0 if it must not be cached, and the response with bounded TTLs.

    ``now`` is in seconds since 1970.
    """
    rcode = answer.rcode
    if rcode not in (NOERROR, NXDOMAIN):
        return 0, answer
    body, answers = answer.body, answer.answer_count
    least, most = limits.least, limits.most
    lowest = most
    is_plain = not rcode
    has_answer = False
    for at in answer.all_ttl_offsets():
        rtype, _, ttl = _FIXED.unpack_from(body, at - 4)
        if ttl < lowest:  # noqa: PLR1730 (a call of min takes longer than all the rest)
            lowest = ttl
        if ttl < least or ttl > most or rtype == RRSIG:
            is_plain = False
        if answers:
            answers -= 1
            if rtype == qtype:
                has_answer = True
    if is_plain and has_answer:
        return lowest, answer
    return _weighed(answer, qtype, limits, now)


def _weighed(answer: ParsedResponse, qtype: int, limits: Limits, now: int) -> tuple[int, ParsedResponse]:
    """
    Return the same for a response that is negative, signed, or has a TTL out of bounds.
    """
    given: list[int] = []
    ttls: list[int] = []
    has_answer = False
    soa: tuple[int, int] | None = None
    signed_until = _MAX_TTL
    for number, record in enumerate(answer.records()):
        rtype, ttl, start, end = record.type, record.ttl, record.rdata_at, record.end
        given.append(ttl)
        ttls.append(min(limits.most, max(limits.least, ttl if ttl <= _MAX_TTL else 0)))
        if record.section == 0 and qtype in (rtype, ANY):
            has_answer = True
        elif record.section == 1 and rtype == SOA and end - start >= 22:
            soa = number, int.from_bytes(answer.body[end - 4 : end], "big")
        if rtype == RRSIG and end - start >= 12:
            expires = int.from_bytes(answer.body[start + 8 : start + 12], "big")
            # Serial number arithmetic (RFC 4034 §3.1.5).
            left = (expires - now) & 0xFFFFFFFF
            signed_until = min(signed_until, left if left <= _MAX_TTL else 0)
    if answer.rcode == NXDOMAIN or not has_answer:
        if soa is None:
            return 0, answer  # RFC 2308 §5: a negative response without SOA is not cached
        number, minimum = soa
        ttls[number] = min(max(limits.least, min(given[number], minimum)), limits.negative)
    lifetime = min(min(ttls, default=0), signed_until)
    return lifetime, answer if ttls == given else answer.with_ttls(ttls)
