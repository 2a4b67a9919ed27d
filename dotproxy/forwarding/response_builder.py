"""
What a client gets: an answer or an error, as its own query asks for it.

Decides the form alone: EDNS, the size a datagram may have, the mark on what is not fresh.
"""

from __future__ import annotations

from dotproxy.cache.failures import FailureResponse
from dotproxy.forwarding.inflight import ClientRequest
from dotproxy.forwarding.interfaces import MessageRewriter, Response
from dotproxy.wire.edns import EDE_CACHED_ERROR, ExtendedError, ede_option
from dotproxy.wire.message import SERVFAIL
from dotproxy.wire.responses import refusal

_AGAIN = ede_option(ExtendedError(EDE_CACHED_ERROR, ""))


class ResponseBuilder:
    """
    ``udp_max_size`` is the longest datagram, in octets, whatever a client says it takes.
    """

    def __init__(self, rewriter: MessageRewriter, udp_max_size: int) -> None:
        self._build_response = rewriter.build_response
        self._udp_max_size = udp_max_size

    def build(self, request: ClientRequest, response: Response, age: int = 0) -> bytes:
        """
        Return what was said, an answer that is so many seconds old or an ``ExtendedError``, as a client gets it.
        """
        listener, _, query, info, _ = request
        if isinstance(response, ExtendedError):
            return refusal(query, SERVFAIL, info, response)  # which has 512 octets at most
        if listener.is_stream:
            return self._build_response(query, info, response, age)
        size, limit = info.udp_size, self._udp_max_size
        return self._build_response(query, info, response, age, size if size < limit else limit)  # noqa: FURB136 (a call takes longer)


def as_cached(failure: FailureResponse) -> FailureResponse:
    """
    Return a failure, marked as one of a moment ago (RFC 8914 §4.14).
    """
    if isinstance(failure, ExtendedError):
        return ExtendedError(EDE_CACHED_ERROR, failure.text)
    return failure._replace(options=failure.options + _AGAIN)
