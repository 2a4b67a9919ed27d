"""
Builds the response to one client, in wire form.

Decides the form: SERVFAIL for an error, the size limit of a datagram, the mark of a cached failure.
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
    ``udp_max_size`` is the longest datagram, in octets, even if a client's EDNS size is larger.
    """

    def __init__(self, rewriter: MessageRewriter, udp_max_size: int) -> None:
        self._build_response = rewriter.build_response
        self._udp_max_size = udp_max_size

    def build(self, request: ClientRequest, response: Response, age: int = 0) -> bytes:
        """
        Return the response to a client, in wire form: TTLs are reduced by ``age`` seconds.
        """
        listener, _, query, info, _ = request
        if isinstance(response, ExtendedError):
            return refusal(query, SERVFAIL, info, response)  # at most 512 octets
        if listener.is_stream:
            return self._build_response(query, info, response, age)
        size, limit = info.udp_size, self._udp_max_size
        return self._build_response(query, info, response, age, size if size < limit else limit)  # noqa: FURB136 (a call takes longer)


def as_cached(failure: FailureResponse) -> FailureResponse:
    """
    Return a failure with the Extended DNS Error "Cached Error" (RFC 8914 §4.14).
    """
    if isinstance(failure, ExtendedError):
        return ExtendedError(EDE_CACHED_ERROR, failure.text)
    return failure._replace(options=failure.options + _AGAIN)
