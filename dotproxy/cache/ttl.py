"""
How long an answer may be kept.

Decides a number of seconds from the answer alone: RFC 2181 for what there is, RFC 2308 for what there is not, the end
of signatures (RFC 4035 §5.3.3), and what the operator sets.  What must not be kept gets none.
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
    In seconds: no TTL is less than ``least`` or more than ``most``, no answer that there is nothing is kept for longer
    than ``negative``.
    """

    least: int = 0
    most: int = 86400
    negative: int = 3600


def freshness(answer: ParsedResponse, qtype: int, limits: Limits, now: int) -> tuple[int, ParsedResponse]:
    """
    Return for how many seconds an answer may be kept, 0 for not at all, and the answer with the TTLs that follow.

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
    Return the same for an answer that is not as simple as most.
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
            return 0, answer  # RFC 2308 §5: without SOA not at all
        number, minimum = soa
        ttls[number] = min(max(limits.least, min(given[number], minimum)), limits.negative)
    lifetime = min(min(ttls, default=0), signed_until)
    return lifetime, answer if ttls == given else answer.with_ttls(ttls)
