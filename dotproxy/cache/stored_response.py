"""
Whether an answer that was stored is one that could have been made by ``answer.take_apart`` for the question of its key.

Decides what has to hold for it to be given to a client without a look at it: sizes, counts, where records and TTLs
stand, and that the key is one of ``question.key_of``.  How old it is, and who wrote it, is not its concern.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.wire.edns import ECS, OPT_SIZE
from dotproxy.wire.message import HEADER_SIZE, NXDOMAIN
from dotproxy.wire.names import skip_question_name
from dotproxy.wire.parsed_response import Answer
from dotproxy.wire.records import scan_records
from dotproxy.wire.rrtypes import META_TYPES

_ECS_CODE = ECS.to_bytes(2, "big")

#: Type, class, and the octet for DO and CD.
_AFTER_NAME = 5
_MARKS = 4
_MAX_MESSAGE = 65535

#: QR set; opcode 0 and TC clear, of the first octet of the flags.
_QR, _QR_OPCODE_TC = 0x80, 0xFA


def check_stored(key: bytes, answer: Answer) -> None:
    """
    Check an answer that was found under a key, with all the offsets of its TTLs in ``ttls``.

    :raises WireError: if it must not be given to anybody.
    """
    head, additionals, body, ttls, extended, options, end, _ = answer
    if end != HEADER_SIZE + _question_size(key):
        raise WireError("the question is not that of its key")
    if len(head) != 8 or head[0] & _QR_OPCODE_TC != _QR or head[1] & 15 not in (0, NXDOMAIN) or extended:
        raise WireError("a header that is not kept")
    if head[2] or head[3] != 1 or (head[4] << 8 | head[5]) + (head[6] << 8 | head[7]) + additionals != len(ttls):
        raise WireError("counts that are not those of its records")
    if end + len(body) + OPT_SIZE + len(options) > _MAX_MESSAGE:
        raise WireError("longer than a message")
    if options:
        _check_options(options)
    _check_records(body, ttls)


def _question_size(key: bytes) -> int:
    """
    Return how many octets the question of a key takes.
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
    # No section of it may have an OPT: to the walker all stand before the additional section.
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
