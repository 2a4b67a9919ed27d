"""
The form in which a client gets an answer or an error.
"""

from typing import Any

import dns.flags
import dns.message
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.forwarding.inflight import ClientRequest
from dotproxy.forwarding.response_builder import ResponseBuilder, as_cached
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.share_settings import ShareSettings
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener
from dotproxy.testing.zone import TXT, A, Zone, address_rdata, txt_rdata
from dotproxy.wire.edns import EDE_CACHED_ERROR, EDE_OTHER, ExtendedError, opt_record
from dotproxy.wire.message import parse_query
from dotproxy.wire.rewrite import EdnsRewriter

ZONE = Zone({("www.test.", A): [address_rdata("192.0.2.1")], ("big.test.", TXT): [txt_rdata("x" * 2000)]})
REWRITER = EdnsRewriter()


def request(octets: bytes, *, is_stream: bool = False) -> ClientRequest:
    """
    Return a query of a client.
    """
    shares = ClientShares(ShareSettings(lambda client: True, max_in_flight=10))
    return ClientRequest(
        RecordingListener(is_stream=is_stream),
        ("192.0.2.9", 1),
        octets,
        parse_query(octets),
        shares.share_of("192.0.2.9", 0.0),
    )


def answer_to(octets: bytes) -> Any:
    """
    Return what an upstream says to it, parsed.
    """
    reply = ZONE(octets)
    assert reply is not None
    return REWRITER.parse_response(octets, parse_query(octets), reply)


def big(size: int) -> bytes:
    """
    Return a query for a long answer by a client that takes so many octets.
    """
    return make_query("big.test.", TXT)[: -len(opt_record(1232))] + opt_record(size)


class WrittenTests(SynchronousTestCase):
    """
    Answers.
    """

    def test_response_has_the_id_and_an_opt_as_the_query_has(self) -> None:
        """
        The ID of the query, and an OPT if and only if the query has one.
        """
        builder = ResponseBuilder(REWRITER, 1232)
        for edns in (False, True):
            query = make_query("www.test.", A, ident=0xABCD, edns=edns)
            message = dns.message.from_wire(builder.build(request(query), answer_to(query)))
            self.assertEqual((0xABCD, 1), (message.id, len(message.answer)))
            self.assertEqual(0 if edns else -1, message.edns)

    def test_udp_response_is_limited_by_client_and_setting(self) -> None:
        """
        The smaller of the client's size and the configured one, to the octet; TCP has no limit.
        """
        whole = len(ResponseBuilder(REWRITER, 65535).build(request(big(4096)), answer_to(big(4096))))
        for configured, taken, is_cut in (
            *((whole, 4096, False), (whole - 1, 4096, True), (65535, whole, False), (65535, whole - 1, True)),
            *((1232, 4096, True), (65535, 1232, True)),
        ):
            query = big(taken)
            octets = ResponseBuilder(REWRITER, configured).build(request(query), answer_to(query))
            flags = dns.message.from_wire(octets, raise_on_truncation=False).flags
            self.assertEqual(is_cut, bool(flags & dns.flags.TC), (configured, taken))
            self.assertLessEqual(len(octets), min(configured, taken))
        query = big(1232)
        octets = ResponseBuilder(REWRITER, 1232).build(request(query, is_stream=True), answer_to(query))
        self.assertEqual(whole, len(octets))

    def test_response_has_the_remaining_ttl(self) -> None:
        """
        The TTL is the remaining one, over UDP and TCP.
        """
        query = make_query("www.test.", A)
        for is_stream in (False, True):
            builder = ResponseBuilder(REWRITER, 1232)
            fresh, old = (
                dns.message.from_wire(builder.build(request(query, is_stream=is_stream), answer_to(query), age))
                for age in (0, 7)
            )
            self.assertEqual(fresh.answer[0].ttl - 7, old.answer[0].ttl)

    def test_error_response_is_servfail_with_the_reason(self) -> None:
        """
        SERVFAIL, with the reason for a client that uses EDNS.
        """
        query = make_query("www.test.", A, ident=7)
        octets = ResponseBuilder(REWRITER, 1232).build(request(query), ExtendedError(EDE_OTHER, "why"))
        message = dns.message.from_wire(octets)
        self.assertEqual((7, dns.rcode.SERVFAIL), (message.id, message.rcode()))
        (option,) = message.options
        self.assertEqual((0, "why"), (int(option.code), option.text))


class CachedErrorTests(SynchronousTestCase):
    """
    A failure of a moment ago says that it is one (RFC 8914 §4.14).
    """

    def test_cached_local_error_has_the_cached_error_code(self) -> None:
        """
        The code is that of a cached error, the text stays.
        """
        self.assertEqual(
            ExtendedError(EDE_CACHED_ERROR, "why"),
            as_cached(ExtendedError(EDE_OTHER, "why")),
        )

    def test_cached_upstream_error_has_both_codes(self) -> None:
        """
        The cached-error code is added to the upstream's options.
        """
        query = make_query("www.test.", A)
        answer = answer_to(query)._replace(options=b"\0\x0f\0\2\0\6")
        self.assertEqual(b"\0\x0f\0\2\0\6" + b"\0\x0f\0\2\0\x0d", as_cached(answer).options)
