"""
Padding of responses, judged by dnspython.
"""

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.response_padding import BLOCK, padded, wants_padding
from dotproxy.wire.message import MAX_MESSAGE

PADDING = dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"")


def response_of(size: int = 0, *, options: list | None = None, edns: bool = True) -> dns.message.Message:
    """
    A response with about so many octets of records.
    """
    query = dns.message.make_query("www.example.", "TXT", use_edns=edns, options=options)
    response = dns.message.make_response(query)
    for number in range(size // 250):
        text = f'"{number:0240d}"'
        response.answer.append(dns.rrset.from_text(f"n{number}.example.", 60 + number, "IN", "TXT", text))
    return response


class WantsPaddingTests(SynchronousTestCase):
    """
    Which queries want their responses padded.
    """

    def test_query_with_a_padding_option_wants_padding(self) -> None:
        """
        With an option of any length, among others or alone (RFC 7830 §4).
        """
        cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
        long = dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(200))
        for options in ([PADDING], [long], [cookie, PADDING], [long, cookie]):
            self.assertTrue(wants_padding(dns.message.make_query("a.example.", "A", options=options).to_wire()))

    def test_query_without_the_option_wants_none(self) -> None:
        """
        Not without one, though the octets of its code occur, nor octets that are no query.
        """
        cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"\0\x0c\0\x0c\0\0\0\0")
        plain = dns.message.make_query("a.example.", "PTR")  # whose type is 12
        with_cookie = dns.message.make_query("a.example.", "A", options=[cookie])
        whole = dns.message.make_query("a.example.", "A", options=[PADDING]).to_wire()
        for octets in (plain.to_wire(), with_cookie.to_wire(), b"", b"\0\x0c", whole[:-2], whole[:12], bytes(40)):
            self.assertFalse(wants_padding(octets), octets)


class PaddedTests(SynchronousTestCase):
    """
    Padded responses.
    """

    def test_padded_response_is_a_multiple_of_468_octets(self) -> None:
        """
        Every response of up to 64 kB is a multiple of 468 octets, its padding the last option, zeros, and all else of
        it as it was (RFC 8467 §4.1, RFC 7830 §3).
        """
        cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"1" * 8)
        for size in (0, 250, 500, 1000, 5000, 30000, 57000):
            for options in (None, [cookie]):
                whole = response_of(size)
                whole.use_edns(0, dns.flags.DO, 1232, options=options)
                wire = whole.to_wire(max_size=MAX_MESSAGE)
                result = padded(wire)
                self.assertEqual(0, len(result) % BLOCK)
                self.assertLess(len(result) - len(wire), BLOCK + 4)
                parsed = dns.message.from_wire(result)
                *others, padding = parsed.options
                self.assertEqual(dns.edns.OptionType.PADDING, padding.otype)
                self.assertEqual(bytes(len(padding.to_wire())), padding.to_wire())
                parsed.use_edns(0, parsed.ednsflags, parsed.payload, options=others)
                self.assertEqual(wire, parsed.to_wire(max_size=MAX_MESSAGE))

    def test_padding_is_limited_to_the_longest_message(self) -> None:
        """
        Where there is no room for a whole block, the response is as long as a message can be; without room for the
        option it stays as it is.
        """
        for length, expected in ((65400, 65520), (65516, 65520), (65517, 65535), (65531, 65535), (65532, 65532)):
            response = response_of(0)
            filling = dns.edns.GenericOption(65001, bytes(length - len(response.to_wire()) - 4))
            response.use_edns(0, options=[filling])
            wire = response.to_wire(max_size=MAX_MESSAGE)
            self.assertEqual(length, len(wire))
            self.assertEqual(expected, len(padded(wire)))

    def test_responses_that_cannot_be_padded_are_unchanged(self) -> None:
        """
        A response without OPT, with padding already, with a record after its OPT, or that cannot be read stays as it is.
        """
        plain = response_of(500, edns=False).to_wire()
        already = response_of(500)
        already.use_edns(0, options=[PADDING])
        signed = response_of(0).to_wire()
        signed = signed[:11] + b"\2" + signed[12:] + b"\0\0\xfa\0\xff" + bytes(4) + b"\0\0"
        cut = response_of(500).to_wire()[:-3]
        for octets in (plain, already.to_wire(), signed, cut, bytes(12)):
            self.assertEqual(octets, padded(octets))

    @given(st.binary(min_size=12, max_size=200))
    def test_any_octets_are_padded_or_unchanged(self, octets: bytes) -> None:
        """
        No octets raise, and what is changed is padded to a block.
        """
        wants_padding(octets)
        result = padded(octets)
        self.assertTrue(result == octets or len(result) % BLOCK == 0)
