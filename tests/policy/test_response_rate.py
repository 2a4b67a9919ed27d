"""
Alike responses to addresses that may be forged.
"""

from collections import Counter

import dns.flags
import dns.message
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.client import Client
from dotproxy.policy.response_rate import ResponseRateLimit


def response(name: str, rcode: int = dns.rcode.NOERROR, answer: str = "192.0.2.1") -> bytes:
    """
    A response about a name.
    """
    query = dns.message.make_query(name, "A", use_edns=0)
    message = dns.message.make_response(query)
    message.set_rcode(dns.rcode.Rcode(rcode))
    if rcode == dns.rcode.NOERROR and answer:
        message.answer.append(dns.rrset.from_text(name, 60, "IN", "A", answer))
    return message.to_wire()


class ResponseRateTests(SynchronousTestCase):
    """
    What may be sent within a second.
    """

    def setUp(self) -> None:
        """
        Ten a second; of the others one in five is sent truncated.
        """
        self.shed = 0
        self.limit = ResponseRateLimit(10, 5, lambda host: host.startswith("10."), self.count)

    def count(self) -> None:
        """
        One was dropped, or truncated.
        """
        self.shed += 1

    def send(self, octets: list[bytes], host: str = "192.0.2.1", now: float = 5.0) -> Counter[str]:
        """
        How many responses to a client are sent whole, and how many truncated.
        """
        sent = self.limit.apply([(each, Client(host, 4000)) for each in octets], now)
        messages = [dns.message.from_wire(each) for each, _ in sent]
        return Counter("truncated" if message.flags & dns.flags.TC else "whole" for message in messages)

    def test_same_response_is_limited_to_ten_then_every_fifth_is_truncated(self) -> None:
        """
        Ten are sent; of the 50 after that ten are, with TC=1, no records and the question.
        """
        self.assertEqual({"whole": 10, "truncated": 10}, self.send([response("www.test.")] * 60))
        self.assertEqual(50, self.shed)
        octets = response("WwW.test.")
        sent = [each for n in range(5) for each, _ in self.limit.apply([(octets, Client("192.0.2.1", 1))], 5.0)]
        message = dns.message.from_wire(sent[0])
        self.assertEqual(([], [], [], -1), (message.answer, message.authority, message.additional, message.edns))
        self.assertEqual("WwW.test.", message.question[0].name.to_text())
        self.assertEqual(octets[:2], sent[0][:2])

    def test_clients_of_a_network_are_limited_together(self) -> None:
        """
        IPv4 addresses of a /24 and IPv6 addresses of a /56; those beside it have their own rate.
        """
        for first, same, other in (
            ("192.0.2.1", "192.0.2.255", "192.0.3.1"),
            ("2001:db8:0:100::1", "2001:db8:0:1ff::1", "2001:db8:0:200::1"),
            ("2001:db8:0:300::1", "2001:db8:0:380::1", "2001:db8:0:400::1"),
        ):
            self.assertEqual(10, self.send([response("www.test.")] * 10, first)["whole"])
            self.assertEqual(0, self.send([response("www.test.")], same)["whole"], same)
            self.assertEqual(1, self.send([response("www.test.")], other)["whole"], other)

    def test_case_of_the_name_is_ignored(self) -> None:
        """
        The same name in another spelling is the same.
        """
        spelled = [
            response("".join(c.upper() if n >> i & 1 else c for i, c in enumerate("abcdef")) + ".test.")
            for n in range(60)
        ]
        self.assertEqual({"whole": 10, "truncated": 10}, self.send(spelled))

    def test_different_names_are_limited_separately(self) -> None:
        """
        Different names are not alike.
        """
        self.assertEqual({"whole": 60}, self.send([response(f"n{n}.test.") for n in range(60)]))

    def test_nxdomain_and_nodata_below_one_name_are_limited_together(self) -> None:
        """
        Names that do not exist are alike if they are below the same; so are NODATA responses.
        """
        missing = [response(f"n{n}.test.", dns.rcode.NXDOMAIN) for n in range(60)]
        self.assertEqual({"whole": 10, "truncated": 10}, self.send(missing))
        self.assertEqual({"whole": 10, "truncated": 10}, self.send([response(f"n{n}.test.", 0, "") for n in range(60)]))
        elsewhere = [response(f"n.z{n}.test.", dns.rcode.NXDOMAIN) for n in range(60)]
        self.assertEqual({"whole": 60}, self.send(elsewhere))

    def test_each_client_network_has_its_own_limit(self) -> None:
        """
        All of a /24, or of a /56, get ten together; the next network gets as many.
        """
        octets = response("www.test.")
        counts = Counter[str]()
        for n in range(60):
            counts += self.send([octets], f"192.0.2.{n}")
        self.assertEqual({"whole": 10, "truncated": 10}, counts)
        self.assertEqual({"whole": 1}, self.send([octets], "192.0.3.1"))
        counts = Counter()
        for n in range(60):
            counts += self.send([octets], f"2001:db8:0:{n:x}::1")
        self.assertEqual({"whole": 10, "truncated": 10}, counts)
        self.assertEqual({"whole": 1}, self.send([octets], "2001:db8:1::1"))

    def test_clients_with_verified_addresses_are_not_limited(self) -> None:
        """
        Clients whose addresses cannot be forged are not limited.
        """
        self.assertEqual({"whole": 60}, self.send([response("www.test.")] * 60, "10.0.0.1"))
        self.assertEqual(0, self.shed)

    def test_limit_is_renewed_each_second(self) -> None:
        """
        A second later there are ten more.
        """
        octets = response("www.test.")
        self.send([octets] * 60)
        self.assertEqual({"whole": 1}, self.send([octets], now=6.0))

    def test_slip_of_zero_drops_all_and_one_truncates_all(self) -> None:
        """
        With a slip of 0 all of the others are dropped; with 1 none is.
        """
        self.limit = ResponseRateLimit(10, 0, lambda host: False, self.count)
        self.assertEqual({"whole": 10}, self.send([response("www.test.")] * 60))
        self.limit = ResponseRateLimit(10, 1, lambda host: False, self.count)
        self.assertEqual({"whole": 10, "truncated": 50}, self.send([response("www.test.")] * 60))

    def test_tables_are_bounded_with_many_networks(self) -> None:
        """
        However many networks there are, the tables keep their size.
        """
        octets = response("www.test.")
        for n in range(20_000):
            self.limit.apply([(octets, Client(f"198.{n >> 8}.{n & 255}.1", 1))], 5.0)
        self.assertLessEqual(len(self.limit._networks), 8192)
        self.assertEqual(1 << 16, len(self.limit._counts))

    def test_errors_without_question_are_limited_together(self) -> None:
        """
        An error without its question is alike to others of its kind.
        """
        self.assertEqual(
            10,
            sum(
                len(self.limit.apply([(b"\\0\\0\\x81\\5" + bytes(8), Client("192.0.2.1", 1))], 5.0)) for _ in range(14)
            ),
        )

    def test_truncated_response_has_id_and_question(self) -> None:
        """
        A response without a question has none.
        """
        limit = ResponseRateLimit(1, 1, lambda host: False, lambda: None)
        for octets, questions in ((response("www.test."), 1), (b"\x12\x34\x81\x85" + bytes(8), 0)):
            (_, (cut, _)) = limit.apply([(octets, Client("192.0.2.1", 1))] * 2, 5.0)
            message = dns.message.from_wire(cut)
            self.assertEqual((octets[:2], questions), (cut[:2], len(message.question)))
            self.assertEqual((True, 0), (bool(message.flags & dns.flags.TC), message.rcode()))
