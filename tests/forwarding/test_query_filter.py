"""
What becomes of a query when it arrives.
"""

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.udp import UdpListener
from dotproxy.forwarding.query_filter import QueryFilter
from dotproxy.policy.client import Client
from dotproxy.policy.server_cookies import ServerCookies
from dotproxy.policy.special_names import SpecialNames
from dotproxy.testing.fakes import RecordingListener
from dotproxy.wire.message import QueryInfo, parse_query
from dotproxy.wire.rewrite import EdnsRewriter
from tests.wire.test_message import octets

CLIENT = Client("127.0.0.1", 4000)


class Factory:
    """
    What a datagram listener needs of its factory.
    """

    handle_batch = None


def make_listener(*, cookies: bool = True) -> UdpListener:
    """
    A UDP listener.
    """
    return UdpListener(Factory(), None, ServerCookies(b"s" * 32).option_for if cookies else None)


class ReceptionTests(SynchronousTestCase):
    """
    One query, one verdict.
    """

    def receive(
        self,
        query: dns.message.Message | bytes,
        listener: object | None = None,
        *,
        minimal: bool = False,
        forwarded: tuple[str, ...] = (),
    ) -> QueryInfo | dns.message.Message | None:
        """
        What is said of a query.
        """
        wire = query if isinstance(query, bytes) else query.to_wire()
        query_filter = QueryFilter(SpecialNames(forwarded), EdnsRewriter(), with_minimal_any=minimal)
        received = query_filter.receive(listener or RecordingListener(), wire, CLIENT)  # type: ignore[arg-type]
        return dns.message.from_wire(received) if isinstance(received, bytes) else received

    def told(self, *given: object, **options: object) -> dns.message.Message:
        """
        The answer to a query that is answered at once.
        """
        answer = self.receive(*given, **options)  # type: ignore[arg-type]
        assert isinstance(answer, dns.message.Message)
        return answer

    def test_query_is_forwarded_with_its_forwarded_options(self) -> None:
        """
        A valid query is to be forwarded, with the options that go upstream.
        """
        nsid = dns.edns.GenericOption(3, b"")
        query = dns.message.make_query("www.lab.example.", "A", use_edns=0, options=[nsid])
        received = self.receive(query)
        assert isinstance(received, QueryInfo)
        self.assertEqual(parse_query(query.to_wire())._replace(forwarded_options=b"\0\3\0\0"), received)

    def test_malformed_option_is_formerr_with_opt(self) -> None:
        """
        FORMERR has an OPT, since the client's is known (RFC 6891 §7).
        """
        head = "0001 0100 0001 0000 0000 0001 03777777 00 0001 0001"
        for options in ("0003 000a00", "0005 000a 0002 00", "0004 000c 0001"):
            answer = self.told(octets(f"{head} 00 0029 04d0 00000000 {options}"))
            self.assertEqual((dns.rcode.FORMERR, 0), (answer.rcode(), answer.edns))

    def test_udp_client_gets_its_server_cookie_and_malformed_is_formerr(self) -> None:
        """
        With cookies on, a UDP client that sends one gets one in any answer, here in one from here; a malformed one is
        FORMERR (RFC 7873 §5.2).
        """
        for size, rcode, told in ((8, dns.rcode.NXDOMAIN, 24), (24, dns.rcode.NXDOMAIN, 24), (9, dns.rcode.FORMERR, 0)):
            option = dns.edns.GenericOption(10, b"x" * size)
            query = dns.message.make_query("x.invalid.", "A", use_edns=0, options=[option])
            answer = self.told(query, make_listener())
            self.assertEqual(rcode, answer.rcode())
            self.assertEqual([told] if told else [], [len(option.to_wire() or b"") for option in answer.options])

    def test_cookie_is_ignored_if_cookies_are_off(self) -> None:
        """
        With cookies off the option is neither parsed nor answered.
        """
        option = dns.edns.GenericOption(10, b"x" * 9)
        query = dns.message.make_query("x.invalid.", "A", use_edns=0, options=[option])
        answer = self.told(query, make_listener(cookies=False))
        self.assertEqual((dns.rcode.NXDOMAIN, ()), (answer.rcode(), answer.options))

    def test_query_without_question_is_answered_only_for_a_cookie(self) -> None:
        """
        It asks for a cookie (RFC 7873 §5.4, RFC 9619 §4); without cookies it is FORMERR.
        """
        option = dns.edns.GenericOption(10, b"x" * 8)
        query = dns.message.Message(id=7)
        query.use_edns(0, options=[option])
        answer = self.told(query, make_listener())
        self.assertEqual((dns.rcode.NOERROR, 7, []), (answer.rcode(), answer.id, answer.question))
        self.assertEqual([10], [option.otype for option in answer.options])
        self.assertEqual(dns.rcode.FORMERR, self.told(query, make_listener(cookies=False)).rcode())
        query.use_edns(0)
        self.assertEqual(dns.rcode.FORMERR, self.told(query, make_listener()).rcode())
        self.assertEqual(dns.rcode.FORMERR, self.told(octets("0007 0100 0000 0000 0000 0000")).rcode())
        keepalive = RecordingListener(is_stream=True)
        keepalive.options = b"\0\x0b\0\2\0\1"
        query.use_edns(0, options=[dns.edns.GenericOption(11, b"")])
        self.assertEqual(dns.rcode.FORMERR, self.told(query, keepalive).rcode())

    def test_any_over_udp_gets_hinfo_if_configured(self) -> None:
        """
        With the setting, ANY over UDP gets one HINFO record (RFC 8482 §4.2); over TCP and by default it is forwarded.
        """
        query = dns.message.make_query("www.lab.example.", "ANY", use_edns=0, want_dnssec=True)
        answer = self.told(query, minimal=True)
        self.assertEqual('www.lab.example. 10800 IN HINFO "RFC8482" ""', answer.answer[0].to_text())
        self.assertEqual((0, dns.flags.DO), (answer.flags & dns.flags.AA, answer.ednsflags))
        self.assertIsInstance(self.receive(query, RecordingListener(is_stream=True), minimal=True), tuple)
        self.assertIsInstance(self.receive(query), tuple)

    def test_axfr_over_udp_is_refused_and_ixfr_truncated(self) -> None:
        """
        AXFR is refused (RFC 5936 §4.2); IXFR gets TC, to be repeated over TCP (RFC 1995 §2).
        """
        for rtype, rcode, truncated in (("AXFR", dns.rcode.REFUSED, False), ("IXFR", dns.rcode.NOERROR, True)):
            answer = self.told(dns.message.make_query("lab.example.", rtype))
            self.assertEqual((rcode, truncated), (answer.rcode(), bool(answer.flags & dns.flags.TC)))

    def test_transfers_over_tcp_are_forwarded_if_the_listener_takes_them(self) -> None:
        """
        They are refused if the listener cannot take several messages.
        """
        stream = RecordingListener(is_stream=True)
        for rtype in ("AXFR", "IXFR"):
            query = dns.message.make_query("lab.example.", rtype)
            self.assertIsInstance(self.receive(query, stream), tuple)
        stream.takes_transfers = False
        for rtype in ("AXFR", "IXFR"):
            answer = self.told(dns.message.make_query("lab.example.", rtype), stream)
            self.assertEqual(dns.rcode.REFUSED, answer.rcode())

    def test_canary_domain_is_nxdomain_unless_forwarded(self) -> None:
        """
        The name by which browsers detect a network's own resolver: NXDOMAIN by default, forwarded with the setting.
        """
        query = dns.message.make_query("use-application-dns.net.", "A")
        self.assertEqual(dns.rcode.NXDOMAIN, self.told(query).rcode())
        self.assertIsInstance(self.receive(query, forwarded=("doh_canary",)), tuple)

    def test_private_top_level_domain_is_nxdomain_with_soa(self) -> None:
        """
        A name of the house is NXDOMAIN from here, with the SOA that lets it be cached (RFC 2308 §5), and not asked of
        anybody (RFC 6762 Appendix G), unless the operator's own upstream serves it.
        """
        query = dns.message.make_query("nas.lan.", "AAAA", use_edns=0)
        answer = self.told(query)
        self.assertEqual((dns.rcode.NXDOMAIN, []), (answer.rcode(), answer.answer))
        (soa,) = answer.authority
        self.assertEqual(("lan.", dns.rdatatype.SOA), (soa.name.to_text(), soa.rdtype))
        for forwarded in ("lan", "private_tlds"):
            self.assertIsInstance(self.receive(query, forwarded=(forwarded,)), tuple)
        self.assertEqual(dns.rcode.NXDOMAIN, self.told(query, forwarded=("corp",)).rcode())
