"""
What happens to a query of a client that is served: it is dropped, gets a local response, or is for upstreams.

Decides the sequence of the checks: format, then local responses.
Refuses to know clients' shares, caches and upstreams.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.forwarding.interfaces import Listener, MessageRewriter
from dotproxy.policy.client import Client
from dotproxy.policy.special_names import LocalAnswer, SpecialNames
from dotproxy.wire.edns import EDE_PROHIBITED, OPT_SIZE, ExtendedError
from dotproxy.wire.framing import MAX_QUERY
from dotproxy.wire.local_answers import loopback, minimal_any, negative
from dotproxy.wire.message import FORMERR, HEADER_SIZE, NOERROR, NXDOMAIN, REFUSED, QueryInfo, parse_query
from dotproxy.wire.responses import ask_over_tcp, refusal
from dotproxy.wire.rrtypes import ANY, AXFR, IXFR

_NO_TRANSFER = ExtendedError(EDE_PROHIBITED, "zone transfers are not forwarded here")

TRANSFERS = (IXFR, AXFR)


class QueryFilter:
    """
    ``with_minimal_any``: queries for ANY over UDP get a minimal local response (RFC 8482 §4.2).
    """

    def __init__(self, special: SpecialNames, rewriter: MessageRewriter, *, with_minimal_any: bool = True) -> None:
        self._special = special
        self._passing = rewriter.forwarded_options
        self._with_minimal_any = with_minimal_any

    def receive(self, listener: Listener, octets: bytes, client: Client) -> QueryInfo | bytes | None:
        """
        Return the parsed query if it is for upstreams, a local response in wire form, or None for no response.
        """
        info = None
        try:
            info = parse_query(octets)
            if len(octets) > MAX_QUERY:
                raise WireError(f"longer than {MAX_QUERY} octets", FORMERR)
            if info.opt_end - info.opt_at > OPT_SIZE:
                info = info._replace(
                    response_options=listener.options_for(octets, info, client),
                    forwarded_options=self._passing(octets, info),
                )
        except WireError as error:
            return None if error.rcode is None else refusal(octets, error.rcode, info)
        return self._answer_here(listener, octets, info) or info

    def _answer_here(self, listener: Listener, octets: bytes, info: QueryInfo) -> bytes | None:
        """
        Return the local response to a query that is not forwarded, None for others.
        """
        if info.question_end == HEADER_SIZE:
            # A query without a question, for a server cookie (RFC 7873 §5.4).
            return refusal(octets, NOERROR if info.response_options and not listener.is_stream else FORMERR, info)
        verdict = self._special.match(octets[HEADER_SIZE : info.question_end - 4], info.qtype)
        if verdict is not None:
            if verdict.kind is LocalAnswer.LOOPBACK:
                return loopback(octets, info, verdict.zone)
            return negative(octets, info, NXDOMAIN if verdict.kind is LocalAnswer.NO_NAME else NOERROR, verdict.zone)
        if info.qtype < IXFR:
            return None
        if info.qtype in TRANSFERS and not listener.takes_transfers:
            # No transfers over UDP: an IXFR client retries over TCP (RFC 1995 §2), AXFR must use TCP (RFC 5936 §4.2).
            if info.qtype == IXFR and not listener.is_stream:
                return ask_over_tcp(octets, info)
            return refusal(octets, REFUSED, info, _NO_TRANSFER)
        if info.qtype == ANY and self._with_minimal_any and not listener.is_stream:
            return minimal_any(octets, info)
        return None
