"""
Text from elsewhere, escaped.
"""

import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Untrusted
from dotproxy.wire.printable import MAX_TEXT, printable, printable_data, printable_lines, short_printable


class PlainTextTests(SynchronousTestCase):
    """
    What a terminal or a log must not see.
    """

    def test_controls_are_escaped(self) -> None:
        """
        Line breaks, escape sequences, C1 controls, line separators, bidi marks, lone surrogates.
        """
        for text, shown in (
            ("plain, ünicode", "plain, ünicode"),
            ("a\nb\rc", "a\\nb\\rc"),
            ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
            ("\x9b2J\x85", "\\x9b2J\\x85"),
            ("\u2028\u202egnp.exe", "\\u2028\\u202egnp.exe"),
            ("\udc80", "\\udc80"),
        ):
            self.assertEqual(shown, printable(text))

    @given(st.text(st.characters(max_codepoint=sys.maxunicode)))
    def test_result_is_printable(self, text: str) -> None:
        """
        Of any text; line ends and tabs stay in lines only.
        """
        self.assertTrue(printable(text).isprintable())
        self.assertTrue(printable_lines(text).replace("\n", "").replace("\t", "").isprintable())

    def test_long_text_is_cut(self) -> None:
        """
        It may be as long as a certificate.
        """
        self.assertEqual("x" * MAX_TEXT + "…", short_printable("x" * 100_000))
        self.assertEqual("x" * MAX_TEXT, short_printable("x" * MAX_TEXT))

    def test_every_text_in_data_is_escaped(self) -> None:
        """
        Keys too.
        """
        data = {"a\n": [1, None, True, "\x1b", {"b": "\r"}]}
        self.assertEqual({"a\\n": [1, None, True, "\\x1b", {"b": "\\r"}]}, printable_data(data))

    def test_reason_of_an_upstream_error_is_escaped(self) -> None:
        """
        It may quote a certificate: it is escaped where it is made, so that logs, status and EDE get it so.
        """
        error = Untrusted("verify", "the certificate is for a\n2026-01-01 forged\x1b[2J, not for b" + "x" * 1000)
        self.assertTrue(error.reason.isprintable())
        self.assertTrue(str(error).isprintable())
        self.assertLess(len(error.reason), 600)
