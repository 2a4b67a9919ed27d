"""
Answers of our own to special names.
"""

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.testing.client import make_query
from dotproxy.wire.local_answers import TTL, loopback, negative
from dotproxy.wire.message import NXDOMAIN, parse_query
from dotproxy.wire.names import from_text
from tests.wire.test_message import queries


class LocalAnswerTests(SynchronousTestCase):
    """
    As dnspython reads them.
    """

    @given(queries())
    def test_negative_answers_have_the_soa_of_their_zone(self, query: dns.message.Message) -> None:
        """
        They have the SOA of their zone, its MINIMUM as TTL, and an OPT if and only if the query has (RFC 6303 §3,
        RFC 2308 §5).
        """
        wire = query.to_wire()
        answer = dns.message.from_wire(negative(wire, parse_query(wire), NXDOMAIN, from_text("home.arpa")))
        self.assertEqual((query.id, query.question, query.edns), (answer.id, answer.question, answer.edns))
        self.assertEqual(dns.rcode.NXDOMAIN, answer.rcode())
        (soa,) = answer.authority
        self.assertEqual(("home.arpa.", TTL, TTL), (soa.name.to_text(), soa.ttl, soa[0].minimum))
        self.assertEqual((dns.rdataclass.IN, 10800), (soa.rdclass, TTL))
        self.assertEqual(
            ("home.arpa.", "nobody.invalid.", 1, 3600, 1200, 604800),
            (
                soa[0].mname.to_text(),
                soa[0].rname.to_text(),
                soa[0].serial,
                soa[0].refresh,
                soa[0].retry,
                soa[0].expire,
            ),
        )
        self.assertTrue(answer.flags & dns.flags.AA)
        self.assertEqual(query.flags & (dns.flags.RD | dns.flags.CD), answer.flags & (dns.flags.RD | dns.flags.CD))

    def test_localhost_has_the_loopback_addresses(self) -> None:
        """
        127.0.0.1 and ::1, and nothing else (RFC 6761 §6.3).
        """
        expected = {1: ["127.0.0.1"], 28: ["::1"], 255: ["127.0.0.1", "::1"], 16: []}
        for rtype, addresses in expected.items():
            wire = make_query("x.localhost.", rtype)
            answer = dns.message.from_wire(loopback(wire, parse_query(wire), from_text("localhost")))
            self.assertEqual(dns.rcode.NOERROR, answer.rcode())
            self.assertEqual(addresses, [rdata.to_text() for rrset in answer.answer for rdata in rrset])
            self.assertEqual(not addresses, bool(answer.authority))
