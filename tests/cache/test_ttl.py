"""
How long an answer may be kept, case by case.
"""

import dns.message
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.ttl import Limits, freshness
from dotproxy.wire.message import parse_query
from dotproxy.wire.rewrite import EdnsRewriter
from tests.cache.test_responses import DATE, record, signature

A = ("www.test.", 100, "A", "192.0.2.1")


def lifetime(*answer: tuple[str, int, str, str] | int, rcode: int = 0, soa: tuple[int, int] | None = None) -> int:
    """
    For how long an answer of these records may be kept; a number is a signature that ends after so many seconds.
    """
    query = dns.message.make_query("www.test.", "A", use_edns=0)
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    for one in answer:
        reply.answer.append(signature(100, one) if isinstance(one, int) else record(*one))
    if soa:
        reply.authority.append(record("test.", soa[0], "SOA", f"ns.test. admin.test. 1 2 3 4 {soa[1]}"))
    wire = query.to_wire()
    read = EdnsRewriter().parse_response(wire, parse_query(wire), reply.to_wire())
    return freshness(read, 1, Limits(), DATE)[0]  # type: ignore[arg-type]


class LifetimeTests(SynchronousTestCase):
    """
    The rules one by one.
    """

    def test_lifetime_is_the_smallest_ttl(self) -> None:
        """
        The smallest TTL, however large the others; one with its uppermost bit set is 0 (RFC 2181 §5.2, §8).
        """
        self.assertEqual(100, lifetime(A))
        self.assertEqual(5, lifetime(A, ("www.test.", 5, "A", "192.0.2.2")))
        self.assertEqual(86400, lifetime(("www.test.", 2**31 - 1, "A", "192.0.2.1")))
        self.assertEqual(0, lifetime(("www.test.", 2**31, "A", "192.0.2.1")))
        self.assertEqual(0, lifetime(("www.test.", 0, "A", "192.0.2.1")))

    def test_lifetime_ends_with_the_signature(self) -> None:
        """
        No response outlives its signature (RFC 4035 §5.3.3), whose end is a serial number (RFC 4034 §3.1.5).
        """
        self.assertEqual(30, lifetime(A, 30))
        self.assertEqual(100, lifetime(A, 3000))
        self.assertEqual(0, lifetime(A, -30))

    def test_negative_lifetime_comes_from_the_soa(self) -> None:
        """
        The lesser of the SOA's TTL and its MINIMUM; without an SOA there is no lifetime (RFC 2308 §5).
        """
        alias = ("www.test.", 100, "CNAME", "elsewhere.test.")
        self.assertEqual(50, lifetime(rcode=3, soa=(60, 50)))
        self.assertEqual(50, lifetime(rcode=3, soa=(50, 60)))
        self.assertEqual(50, lifetime(soa=(50, 60)))
        self.assertEqual(50, lifetime(alias, soa=(50, 60)))
        self.assertEqual(3600, lifetime(rcode=3, soa=(86400, 86400)))
        self.assertEqual([0, 0, 0], [lifetime(rcode=3), lifetime(), lifetime(alias)])

    def test_records_of_other_sections_do_not_answer_the_question(self) -> None:
        """
        Records of the type in question in another section do not answer it; nor do they with NXDOMAIN, whose SOA counts.
        """
        alias = ("www.test.", 100, "CNAME", "elsewhere.test.")
        query = dns.message.make_query("www.test.", "A")
        reply = dns.message.make_response(query)
        reply.answer.append(record(*alias))
        reply.authority.append(record(*A))
        read = EdnsRewriter().parse_response(query.to_wire(), parse_query(query.to_wire()), reply.to_wire())
        self.assertEqual(0, freshness(read, 1, Limits(), DATE)[0])  # type: ignore[arg-type]
        self.assertEqual(50, lifetime(A, rcode=3, soa=(60, 50)))

    def test_errors_have_no_lifetime(self) -> None:
        """
        Error responses are not cached, nor are those with upper bits in the RCODE (RFC 6891 §6.1.3).
        """
        self.assertEqual([0] * 6, [lifetime(A, rcode=rcode) for rcode in (1, 2, 4, 5, 16, 19)])
