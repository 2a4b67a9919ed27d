"""
OPT records and Extended DNS Errors.
"""

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.wire import edns
from dotproxy.wire.edns import DO, MAX_EXTRA_TEXT, ExtendedError, ede_option, opt_record


def parse(opt: bytes) -> dns.message.Message:
    """
    The message dnspython sees when ``opt`` is all there is in it.
    """
    return dns.message.from_wire(b"\0\0\x80\0" + b"\0\0" * 3 + b"\0\1" + opt)


class NumberTests(SynchronousTestCase):
    """
    Numbers of the IANA registries.
    """

    def test_option_codes_agree_with_dnspython(self) -> None:
        """
        Option codes and the flag DO.
        """
        self.assertEqual(
            (dns.edns.OptionType.ECS, dns.edns.OptionType.COOKIE, 11, dns.edns.OptionType.PADDING),
            (edns.ECS, edns.COOKIE, edns.KEEPALIVE, edns.PADDING),
        )
        self.assertEqual(dns.edns.OptionType.EDE, edns.EDE_OPTION)
        self.assertEqual((dns.rdatatype.OPT, dns.flags.DO), (edns.OPT, DO))

    def test_info_codes_are_those_of_rfc_8914(self) -> None:
        """
        INFO-CODEs are those of RFC 8914 §4.
        """
        code = dns.edns.EDECode
        self.assertEqual(
            (code.OTHER, code.STALE_ANSWER, code.CACHED_ERROR, code.PROHIBITED, code.STALE_NXDOMAIN_ANSWER),
            (
                edns.EDE_OTHER,
                edns.EDE_STALE_ANSWER,
                edns.EDE_CACHED_ERROR,
                edns.EDE_PROHIBITED,
                edns.EDE_STALE_NXDOMAIN,
            ),
        )
        self.assertEqual(
            (code.NO_REACHABLE_AUTHORITY, code.NETWORK_ERROR),
            (edns.EDE_NO_REACHABLE_AUTHORITY, edns.EDE_NETWORK_ERROR),
        )


class OptTests(SynchronousTestCase):
    """
    What is written, as dnspython reads it.
    """

    @given(st.integers(512, 65535), st.integers(0, 4095), st.booleans())
    def test_opt_has_size_rcode_and_do(self, size: int, rcode: int, do: bool) -> None:
        """
        The size, the upper eight bits of the RCODE, and DO (RFC 6891 §6.1.3).
        """
        message = parse(opt_record(size, rcode, DO if do else 0))
        self.assertEqual(size, message.payload)
        self.assertEqual(rcode & 0xFF0, int(message.rcode()))
        self.assertEqual(0, message.edns)
        self.assertEqual(do, bool(message.ednsflags & dns.flags.DO))

    @given(st.integers(0, 65535), st.text(max_size=300))
    def test_extended_error_text_is_cut_to_whole_characters(self, code: int, text: str) -> None:
        """
        An Extended DNS Error has its code, and of its text as much as fits, in whole characters (RFC 8914 §2).
        """
        message = parse(opt_record(1232, options=ede_option(ExtendedError(code, text))))
        (option,) = message.options
        assert isinstance(option, dns.edns.EDEOption)
        self.assertEqual(code, int(option.code))
        shown = option.text or ""
        self.assertLessEqual(len(shown.encode()), MAX_EXTRA_TEXT)
        if len(text.encode()) <= MAX_EXTRA_TEXT:
            # One final NUL is taken off an EXTRA-TEXT by who reads it.
            self.assertEqual(text.removesuffix("\0"), shown)
        else:
            self.assertTrue(shown.endswith("..."), shown)
            self.assertTrue(text.startswith(shown.removesuffix("...").removesuffix(" ")), shown)

    def test_opt_with_an_extended_error_octet_by_octet(self) -> None:
        """
        An OPT with an Extended DNS Error, octet for octet (RFC 6891 §6.1.2, RFC 8914 §2).
        """
        option = ede_option(ExtendedError(22, "why"))
        self.assertEqual(bytes.fromhex("000f 0005 0016 776879"), option)
        opt = opt_record(1232, 0xABC, DO | 1, option)
        self.assertEqual(bytes.fromhex("00 0029 04d0 ab00 8001 0009 000f 0005 0016 776879"), opt)

    def test_long_text_is_cut_between_words(self) -> None:
        """
        A text too long ends with its last whole word that fits, and three dots (RFC 8914 §2).
        """
        for words in range(30, 60):
            text = "quad9: connect: network is unreachable; " + "word " * words + "x" * words
            shown = ede_option(ExtendedError(22, text))[6:].decode()
            self.assertRegex(shown, r"unreachable; (word )+\.\.\.$")
            self.assertTrue(MAX_EXTRA_TEXT - 5 <= len(shown) <= MAX_EXTRA_TEXT, len(shown))

    def test_text_of_160_octets_is_not_cut(self) -> None:
        """
        The limit is 160 octets of UTF-8.
        """
        self.assertEqual(160, MAX_EXTRA_TEXT)
        text = "é " * 53 + "x"
        self.assertEqual(160, len(text.encode()))
        self.assertEqual(text, ede_option(ExtendedError(0, text))[6:].decode())
        self.assertEqual("é " * 52 + "...", ede_option(ExtendedError(0, text + "x"))[6:].decode())

    def test_punctuation_before_the_cut_is_removed(self) -> None:
        """
        No colon or semicolon is left at the end.
        """
        text = "x" * 100 + " one: two; " + "y" * 100
        self.assertEqual("x" * 100 + " one: two ...", ede_option(ExtendedError(0, text))[6:].decode())

    def test_single_long_word_is_cut_between_characters(self) -> None:
        """
        Without a space to cut at, as many octets are kept as make whole characters (RFC 8914 §2: UTF-8).
        """
        self.assertTrue(ede_option(ExtendedError(0, "€" * 999))[6:].decode().endswith("€..."))
        self.assertEqual(6 + MAX_EXTRA_TEXT, len(ede_option(ExtendedError(0, "x" * 999))))
        self.assertEqual(6 + MAX_EXTRA_TEXT // 3 * 3, len(ede_option(ExtendedError(0, "€" * 999))))
