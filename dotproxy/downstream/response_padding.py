"""
Padding of responses to clients over TLS (RFC 7830, RFC 8467).

Decides which responses are padded and to what length: those to queries with a padding option, to a multiple of 468
octets.  Nothing else of a response changes.  A signed response, and one that does not end with an OPT, is not padded.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.wire.edns import OPT_SIZE, PADDING, option, options_of
from dotproxy.wire.message import HEADER, HEADER_SIZE, MAX_MESSAGE, parse_query, question_of, records_of

#: Responses are padded to a multiple of this, in octets (RFC 8467 §4.1).
BLOCK = 468

_PADDING_CODE = PADDING.to_bytes(2, "big")
_OPTION_SIZE = 4


def wants_padding(query: bytes) -> bool:
    """
    Return whether ``query`` has a padding option, so that its response is to be padded (RFC 7830 §4).

    Return False for a query that cannot be parsed.
    """
    if _PADDING_CODE not in query:  # a cheap test that excludes nearly every query without the option
        return False
    try:
        info = parse_query(query)
        return any(code == PADDING for code, _, _ in options_of(query, info.opt_at, info.opt_end))
    except WireError:
        return False


def padded(response: bytes, block: int = BLOCK) -> bytes:
    """
    Return ``response`` with padding at the end of its OPT, so that its length is a multiple of ``block`` octets, or the
    greatest length of a message if that is less.

    Return ``response`` unchanged if its last record is not a valid OPT, if it has padding already, or if there is no
    room for the option.
    """
    opt_at = _last_opt(response)
    if not opt_at or len(response) + _OPTION_SIZE > MAX_MESSAGE:
        return response
    length = len(response) + _OPTION_SIZE
    length += -length % block
    padding = option(PADDING, bytes(min(length, MAX_MESSAGE) - len(response) - _OPTION_SIZE))
    size_at = opt_at + OPT_SIZE - 2
    size = int.from_bytes(response[size_at : size_at + 2], "big") + len(padding)
    return response[:size_at] + size.to_bytes(2, "big") + response[size_at + 2 :] + padding


def _last_opt(response: bytes) -> int:
    """
    Return the offset of the OPT that ends a response; 0 if there is none or it has padding.
    """
    _, _, questions, _, _, additionals = HEADER.unpack_from(response)
    end = question_of(response) if questions else HEADER_SIZE
    if not end or not additionals:
        return 0
    try:
        layout = records_of(response, end)
        opt_at, opt_end = layout.opt_at, layout.opt_end
        if opt_end < len(response) or any(code == PADDING for code, _, _ in options_of(response, opt_at, opt_end)):
            return 0
    except WireError:
        return 0
    return opt_at
