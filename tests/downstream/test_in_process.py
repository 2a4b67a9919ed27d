"""
twisted.names' interface, over a forwarder.
"""

from collections.abc import Iterable
from typing import Any

import dns.message
import dns.rrset
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IResolver
from twisted.internet.task import Clock
from twisted.names import dns as names
from twisted.names.error import DNSNameError, DNSQueryTimeoutError, DNSServerError, DomainError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.errors import WireError
from dotproxy.resolver import DoTResolver
from dotproxy.testing.server import MemoryNetwork


class QueryReceiver:
    """
    A forwarder in whose place a test answers.
    """

    def __init__(self) -> None:
        self.questions: list[tuple[Any, bytes, Any]] = []
        self.silent = 0

    def handle_batch(self, listener: Any, batch: Iterable[tuple[bytes, Any]]) -> int:
        """
        Called by the resolver.
        """
        self.questions += [(listener, octets, client) for octets, client in batch]
        return self.silent


class ResolverTests(SynchronousTestCase):
    """
    Asking, and being answered.
    """

    def setUp(self) -> None:
        """
        A resolver.
        """
        self.clock, self.receiver = Clock(), QueryReceiver()
        self.resolver = ForwarderResolver(self.receiver, self.clock)

    def asked(self) -> dns.message.Message:
        """
        The last question, as dnspython reads it.
        """
        return dns.message.from_wire(self.receiver.questions[-1][1])

    def answer(self, *records: tuple[str, str, str], rcode: int = 0) -> None:
        """
        Answer the last question.
        """
        reply = dns.message.make_response(self.asked())
        reply.set_rcode(rcode)
        for owner, rtype, text in records:
            reply.answer.append(dns.rrset.from_text(owner, 300, "IN", rtype, text))
        self.answer_octets(reply.to_wire())

    def answer_octets(self, octets: bytes) -> None:
        """
        Answer the last question with octets.
        """
        listener, _, client = self.receiver.questions[-1]
        listener.send_answers([(octets, client)])

    def test_dropped_query_fails_at_once(self) -> None:
        """
        A query without a response fails at once.
        """
        self.receiver.silent = 1
        self.failureResultOf(self.resolver.lookupAddress("www.test"), DNSServerError)

    def test_resolver_provides_iresolver_without_a_size_limit(self) -> None:
        """
        It provides the interfaces of twisted.names, and accepts responses of any size.
        """
        verifyObject(IResolver, self.resolver)
        self.assertTrue(self.resolver.is_stream)

    def test_lookup_sends_rd_and_edns_and_returns_records(self) -> None:
        """
        The client is this process.
        """
        looked_up = self.resolver.lookupMailExchange("example.org")
        question = self.asked().question[0]
        self.assertEqual(("example.org.", 15, 1), (question.name.to_text(), question.rdtype, question.rdclass))
        self.assertEqual((0, 0x100), (self.asked().edns, self.asked().flags & 0x100))
        self.assertEqual("", self.receiver.questions[0][2].host)
        self.answer(("example.org.", "MX", "10 mail.example.org."))
        (record,), _, _ = self.successResultOf(looked_up)
        self.assertEqual((b"mail.example.org", 10), (record.payload.name.name, record.payload.preference))

    def test_class_of_the_query_is_kept(self) -> None:
        """
        A query of another class asks for that class.
        """
        self.resolver.query(names.Query(b"version.bind", names.TXT, names.CH))
        self.assertEqual(3, self.asked().question[0].rdclass)

    def test_root_can_be_queried(self) -> None:
        """
        The root can be asked about.
        """
        self.resolver.lookupNameservers(b"")
        self.assertEqual(".", self.asked().question[0].name.to_text())

    def test_rcodes_are_errors_of_twisted_names(self) -> None:
        """
        Each RCODE fails as twisted.names' own resolver would.
        """
        for rcode, kind in ((3, DNSNameError), (2, DNSServerError)):
            looked_up = self.resolver.lookupAddress("example.org")
            self.answer(rcode=rcode)
            self.failureResultOf(looked_up, kind)

    def test_invalid_name_fails_without_a_query(self) -> None:
        """
        What cannot be a name fails, and nothing is asked.
        """
        for name in (b"a..b", b"a" * 64, b".".join([b"a" * 63] * 5)):
            self.failureResultOf(self.resolver.lookupAddress(name), WireError)
        self.assertEqual([], self.receiver.questions)

    def test_timeout_is_the_sum_of_the_timeouts(self) -> None:
        """
        A later response is dropped.
        """
        looked_up = self.resolver.lookupAddress("example.org", [1, 2])
        self.clock.advance(2.9)
        self.assertNoResult(looked_up)
        self.clock.advance(0.2)
        self.failureResultOf(looked_up, DNSQueryTimeoutError)
        self.answer(("example.org.", "A", "192.0.2.1"))

    def test_host_by_name_queries_a_then_aaaa(self) -> None:
        """
        Never ANY (RFC 8482).
        """
        found = self.resolver.getHostByName("example.org")
        self.answer(("example.org.", "CNAME", "www.example.org."), ("www.example.org.", "A", "192.0.2.1"))
        self.assertEqual("192.0.2.1", self.successResultOf(found))
        found = self.resolver.getHostByName("example.org")
        self.answer()
        self.assertEqual(28, self.asked().question[0].rdtype)
        self.answer(("example.org.", "AAAA", "2001:db8::1"))
        self.assertEqual("2001:db8::1", self.successResultOf(found))
        found = self.resolver.getHostByName("example.org")
        self.answer()
        self.answer()
        self.failureResultOf(found, DomainError)

    def test_names_of_every_decoded_type_are_checked(self) -> None:
        """
        Names in rdata are checked, then decoded.
        """
        records = [
            ("SOA", "ns.example.org. admin.example.org. 1 2 3 4 5"),
            ("SRV", "1 2 53 ns.example.org."),
            ("NAPTR", '1 2 "u" "E2U+sip" "!^.*$!sip:a@b!" example.org.'),
            ("RP", "admin.example.org. txt.example.org."),
            ("AFSDB", "1 afs.example.org."),
            ("PTR", "www.example.org."),
            ("TXT", '"hello" "there"'),
            ("TYPE65280", "\\# 3 010203"),
        ]
        for rtype, text in records:
            looked_up = self.resolver.query(names.Query(b"example.org", names.ALL_RECORDS))
            self.answer(("example.org.", rtype, text))
            self.assertEqual(1, len(self.successResultOf(looked_up)[0]), rtype)

    def hostile(self, *records: bytes) -> Deferred[Any]:
        """
        A lookup answered with records that dnspython would not make.
        """
        looked_up = self.resolver.lookupAddress("example.org")
        question = self.receiver.questions[-1][1][12:-11]
        self.answer_octets(
            b"\0\0\x81\x80\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0" + question + b"".join(records)
        )
        return looked_up

    def test_response_with_malformed_names_is_refused(self) -> None:
        """
        It is refused before twisted.names decodes it.
        """
        fixed = b"\0\1\0\0\0\0"
        self_pointer = b"\xc0\x1d" + b"\0\1" + fixed + b"\0\0"
        soa = b"\xc0\x0c\0\6" + fixed + b"\0\4" + b"\xc0\x0c\xff\xff"
        naptr = b"\xc0\x0c\0\x23" + fixed + b"\0\5" + b"\0\0\0\0\xff"
        a6 = b"\xc0\x0c\0\x26" + fixed + b"\0\1\0"
        for record in (self_pointer, soa, naptr, a6, b"\xc0\x0c"):
            self.failureResultOf(self.hostile(record), WireError)

    def test_names_in_rdata_are_checked_at_their_offsets(self) -> None:
        """
        As the types' RFCs have them, behind so many octets of other fields; what is behind the names is not looked at.
        """
        layouts = {
            **dict.fromkeys(("NS", "MD", "MF", "CNAME", "MB", "MG", "MR", "PTR", "DNAME"), (0, 1)),
            **dict.fromkeys(("SOA", "MINFO", "RP"), (0, 2)),
            **dict.fromkeys(("MX", "AFSDB"), (2, 1)),
            "SRV": (6, 1),
        }
        good, bad = b"\1a\0", b"\xbf\0"  # of a reserved label type
        for rtype, (before, count) in layouts.items():
            head = b"\xc0\x0c" + getattr(names, rtype).to_bytes(2, "big") + b"\0\1\0\0\0\0"
            for number in range(count):
                rdata = b"\xff" * before + good * number + bad + good + bytes(20)
                self.failureResultOf(self.hostile(head + len(rdata).to_bytes(2, "big") + rdata), WireError)
            rdata = b"\xff" * before + good * count + bytes(20) * (rtype == "SOA")
            self.assertEqual(
                1, len(self.successResultOf(self.hostile(head + len(rdata).to_bytes(2, "big") + rdata))[0])
            )

    def test_rdata_without_names_is_not_checked(self) -> None:
        """
        Octets that would be no name are accepted in an address.
        """
        record = b"\xc0\x0c" + b"\0\1\0\1\0\0\0\0\0\4" + b"\xbf" * 4
        self.assertEqual(1, len(self.successResultOf(self.hostile(record))[0]))

    def test_chain_of_pointers_is_refused_when_too_long(self) -> None:
        """
        Names that would grow without end, each pointing to the last, are refused where they get too long.
        """
        at, records = 29, []
        target = 0x0C
        for _ in range(50):
            owner = b"\x3f" + b"a" * 63 + (0xC000 | target).to_bytes(2, "big")
            records.append(owner + b"\0\1\0\1\0\0\0\0\0\0")
            target, at = at, at + len(records[-1])
        self.failureResultOf(self.hostile(*records), WireError)

    def test_response_without_question_fails(self) -> None:
        """
        It cannot be decoded.
        """
        looked_up = self.resolver.lookupAddress("example.org")
        self.answer_octets(b"\0\0\x81\x80" + b"\0" * 8)
        self.failureResultOf(looked_up, WireError)


class LibraryTests(SynchronousTestCase):
    """
    ``DoTResolver``.
    """

    def test_nothing_is_dialled_before_the_first_query(self) -> None:
        """
        A program that imports it and sends no query opens no connection.
        """
        network = MemoryNetwork()
        resolver = DoTResolver(["192.0.2.1#dot.test"], reactor=network.reactor)
        network.advance(60)
        self.assertEqual([], network.dialled)
        looked_up = resolver.lookupAddress("www.example.org")
        self.assertEqual([("192.0.2.1", 853)], network.dialled)
        resolver.close()
        self.failureResultOf(looked_up)
