"""
Whether a stored response is one that ``parsed_response.parse_reply`` could have made for the question of its key.

Decides what has to hold before it is sent to clients without further checks: sizes, counts, offsets of records and
TTLs, and a key that ``cache.key.key_of`` could have made.  Refuses to know its age, and who wrote it.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.wire.edns import ECS, OPT_SIZE
from dotproxy.wire.message import HEADER_SIZE, MAX_MESSAGE, NOERROR, NXDOMAIN
from dotproxy.wire.names import skip_question_name
from dotproxy.wire.parsed_response import ParsedResponse
from dotproxy.wire.records import scan_records
from dotproxy.wire.rrtypes import META_TYPES

_ECS_CODE = ECS.to_bytes(2, "big")

#: Type, class, and the octet for DO and CD.
_AFTER_NAME = 5
_MARKS = 4

#: QR set; opcode 0 and TC clear, of the first octet of the flags.
_QR, _QR_OPCODE_TC = 0x80, 0xFA


def check_stored(key: bytes, answer: ParsedResponse) -> None:
    """
    Check a stored response against its key; ``ttl_offsets`` has the offsets of all TTLs.

    :raises WireError: if it must not be sent to clients.
    """
    head = answer.head
    if answer.question_end != HEADER_SIZE + _question_size(key):
        raise WireError("the question is not that of its key")
    if len(head) != 8 or head[0] & _QR_OPCODE_TC != _QR or answer.rcode not in (NOERROR, NXDOMAIN):
        raise WireError("a header that is not kept")
    counted = answer.answer_count + answer.authority_count + answer.additional_count
    if head[2:4] != b"\0\1" or counted != len(answer.ttl_offsets):
        raise WireError("counts that are not those of its records")
    if answer.question_end + len(answer.body) + OPT_SIZE + len(answer.options) > MAX_MESSAGE:
        raise WireError("longer than a message")
    if answer.options:
        _check_options(answer.options)
    _check_records(answer.body, answer.ttl_offsets)


def _question_size(key: bytes) -> int:
    """
    Return the size of the question in a key, in octets.

    :raises WireError: if ``key_of`` cannot have made the key.
    """
    at = skip_question_name(key, 0)
    if key[:at] != key[:at].lower():
        raise WireError("a name in upper case")
    if len(key) < at + _AFTER_NAME or key[at + 4] >= _MARKS or (key[at] << 8 | key[at + 1]) in META_TYPES:
        raise WireError("not a key")
    if len(key) > at + _AFTER_NAME:
        subnet = key[at + _AFTER_NAME :]
        if len(subnet) < 4 or subnet[:2] != _ECS_CODE or len(subnet) != 4 + (subnet[2] << 8 | subnet[3]):
            raise WireError("not a key")
    return at + 4


def _check_records(body: bytes, ttls: tuple[int, ...]) -> None:
    # No section may have an OPT: all records are scanned as answers, where OPT is an error.
    layout = scan_records(body, 0, len(ttls), 0)
    if layout.ttl_offsets != list(ttls):
        raise WireError("a TTL stands where there is none")
    if layout.end != len(body):
        raise WireError("octets after the last record")


def _check_options(options: bytes) -> None:
    offset, size = 0, len(options)
    while offset < size:
        if offset + 4 > size:
            raise WireError("an EDNS option is cut short")
        offset += 4 + (options[offset + 2] << 8 | options[offset + 3])
    if offset != size:
        raise WireError("an EDNS option runs past its end")
