"""
What becomes of a query of a client that is served: silence, an answer on the spot, or a question for an upstream.

Decides the order of the judgements: is it a query at all, is it for us to answer.
Refuses to know clients, upstreams, and what becomes of a question afterwards.
"""

from __future__ import annotations

from dotproxy.errors import WireError
from dotproxy.forwarding.interfaces import Client, Listener, MessageRewriter
from dotproxy.policy.special_names import Kind, SpecialNames
from dotproxy.wire.edns import EDE_PROHIBITED, OPT_SIZE, ExtendedError
from dotproxy.wire.framing import MAX_QUERY
from dotproxy.wire.local_answers import loopback, minimal_any, negative
from dotproxy.wire.message import FORMERR, HEADER_SIZE, NOERROR, NXDOMAIN, REFUSED, QueryInfo, peek
from dotproxy.wire.responses import ask_over_tcp, refusal
from dotproxy.wire.rrtypes import ANY, AXFR, IXFR

_NO_TRANSFER = ExtendedError(EDE_PROHIBITED, "zone transfers are not forwarded here")

TRANSFERS = (IXFR, AXFR)


class QueryFilter:
    """
    ``with_minimal_any``: over UDP, questions for ANY get as little as they may (RFC 8482 §4.2).
    """

    def __init__(self, special: SpecialNames, rewriter: MessageRewriter, *, with_minimal_any: bool = True) -> None:
        self._special = special
        self._passing = rewriter.passing
        self._with_minimal_any = with_minimal_any

    def receive(self, listener: Listener, octets: bytes, client: Client) -> QueryInfo | bytes | None:
        """
        Return what is seen of a question for upstreams, the answer the client gets at once, or None for silence.
        """
        seen = None
        try:
            seen = peek(octets)
            if len(octets) > MAX_QUERY:
                raise WireError(f"longer than {MAX_QUERY} octets", FORMERR)
            if seen.opt_end - seen.opt_at > OPT_SIZE:
                seen = seen._replace(
                    ours=listener.options_for(octets, seen, client), passed=self._passing(octets, seen)
                )
        except WireError as error:
            return None if error.rcode is None else refusal(octets, error.rcode, seen)
        return self._answer_here(listener, octets, seen) or seen

    def _answer_here(self, listener: Listener, octets: bytes, seen: QueryInfo) -> bytes | None:
        """
        Return the answer to what is not for the DNS at large.
        """
        if seen.question_end == HEADER_SIZE:
            # It asks for a cookie, and for nothing else (RFC 7873 §5.4).
            return refusal(octets, NOERROR if seen.ours and not listener.is_stream else FORMERR, seen)
        verdict = self._special.judge(octets[HEADER_SIZE : seen.question_end - 4], seen.qtype)
        if verdict is not None:
            if verdict.kind is Kind.LOOPBACK:
                return loopback(octets, seen, verdict.zone)
            return negative(octets, seen, NXDOMAIN if verdict.kind is Kind.NO_NAME else NOERROR, verdict.zone)
        if seen.qtype < IXFR:
            return None
        if seen.qtype in TRANSFERS and not listener.takes_transfers:
            # A transfer does not fit a datagram: IXFR may be asked again over TCP, AXFR should have been
            # (RFC 1995 §2, RFC 5936 §4.2).
            if seen.qtype == IXFR and not listener.is_stream:
                return ask_over_tcp(octets, seen)
            return refusal(octets, REFUSED, seen, _NO_TRANSFER)
        if seen.qtype == ANY and self._with_minimal_any and not listener.is_stream:
            return minimal_any(octets, seen)
        return None
