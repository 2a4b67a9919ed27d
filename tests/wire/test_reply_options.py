"""
What the EDNS options of a reply say: idle timeouts, and why an upstream failed.
"""

import dns.edns
import dns.message
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.wire.reply_options import KEEPALIVE_HEAD, ede_code_of, is_bogus, keepalive_of


def reply_with(*options: dns.edns.Option, edns: bool = True, question: bool = True) -> bytes:
    """
    A reply with these options.
    """
    reply = dns.message.make_response(dns.message.make_query("www.test.", "A"))
    if edns:
        reply.use_edns(0, options=list(options))
    if not question:
        reply.question = []
    return reply.to_wire()


class KeepaliveTests(SynchronousTestCase):
    """
    What a reply says (RFC 7828 §3.1).
    """

    @given(st.integers(0, 65535))
    def test_timeout_is_found_among_other_options(self, tenths: int) -> None:
        """
        A timeout is found among other options, and the quick look does not miss it.
        """
        option = dns.edns.GenericOption(11, tenths.to_bytes(2, "big"))
        for question in (True, False):
            reply = reply_with(dns.edns.GenericOption(65001, b"x"), option, question=question)
            self.assertIn(KEEPALIVE_HEAD, reply)
            self.assertEqual(tenths, keepalive_of(reply))

    def test_missing_option_or_timeout_gives_none(self) -> None:
        """
        No OPT, no option, or one without a timeout say nothing.
        """
        for reply in (reply_with(edns=False), reply_with(), reply_with(dns.edns.GenericOption(11, b""))):
            self.assertIsNone(keepalive_of(reply))

    @given(st.binary(min_size=12, max_size=80))
    def test_any_octets_give_a_number_or_none(self, octets: bytes) -> None:
        """
        Whatever comes, it is a number or nothing.
        """
        self.assertIn(type(keepalive_of(octets)), (int, type(None)))


def extended_error(code: int, text: bytes = b"") -> dns.edns.Option:
    """
    An Extended DNS Error.
    """
    return dns.edns.GenericOption(15, code.to_bytes(2, "big") + text)


class ExtendedErrorTests(SynchronousTestCase):
    """
    Why a name was not resolved (RFC 8914).
    """

    def test_dnssec_codes_are_recognised(self) -> None:
        """
        It is the name's fault with these codes, of all there are, and with no other (RFC 8914 §4).
        """
        broken = {
            dns.edns.EDECode.UNSUPPORTED_DNSKEY_ALGORITHM,
            dns.edns.EDECode.UNSUPPORTED_DS_DIGEST_TYPE,
            dns.edns.EDECode.DNSSEC_INDETERMINATE,
            dns.edns.EDECode.DNSSEC_BOGUS,
            dns.edns.EDECode.SIGNATURE_EXPIRED,
            dns.edns.EDECode.SIGNATURE_NOT_YET_VALID,
            dns.edns.EDECode.DNSKEY_MISSING,
            dns.edns.EDECode.RRSIGS_MISSING,
            dns.edns.EDECode.NO_ZONE_KEY_BIT_SET,
            dns.edns.EDECode.NSEC_MISSING,
        }
        for code in range(40):
            self.assertEqual(code in broken, is_bogus(reply_with(extended_error(code, b"text"))), code)
        self.assertFalse(is_bogus(reply_with(extended_error(0x0106))))
        self.assertFalse(is_bogus(reply_with(dns.edns.GenericOption(16, b"\0\6"))))

    def test_options_are_found_behind_other_records(self) -> None:
        """
        Options are found behind answers and authorities, with a question and without.
        """
        for answers, authorities in ((0, 1), (1, 0), (2, 3), (300, 1), (1, 300)):
            reply = dns.message.from_wire(reply_with(extended_error(6)))
            for section, count in ((reply.answer, answers), (reply.authority, authorities)):
                texts = [f"10.0.{number >> 8}.{number & 255}" for number in range(count)]
                if texts:
                    section.append(dns.rrset.from_text_list("www.test.", 60, "IN", "A", texts))
            wire = reply.to_wire(max_size=65535)
            self.assertEqual((6, True), (ede_code_of(wire), is_bogus(wire)), (answers, authorities))

    def test_code_is_that_of_the_first_option(self) -> None:
        """
        None without an option, or where it is cut short.
        """
        self.assertEqual(0x1234, ede_code_of(reply_with(extended_error(0x1234), extended_error(2))))
        self.assertEqual(6, ede_code_of(reply_with(dns.edns.GenericOption(15, b"\0"), extended_error(6, b"text"))))
        for reply in (reply_with(), reply_with(edns=False), reply_with(dns.edns.GenericOption(16, b"\0\6"))):
            self.assertIsNone(ede_code_of(reply))
