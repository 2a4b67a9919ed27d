"""
SPKI pins.
"""

from base64 import b64encode
from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.pins import matches_pins, parse_pin, pin_of, show_pin

PIN = sha256(b"a key").digest()


class PinTests(SynchronousTestCase):
    """
    Reading, showing and matching.
    """

    def test_pin_is_the_sha256_of_a_public_key(self) -> None:
        """
        SHA-256 over the SubjectPublicKeyInfo (RFC 7858 §4.2).
        """
        self.assertEqual(PIN, pin_of(b"a key"))

    def test_pin_round_trips(self) -> None:
        """
        A pin is parsed as it is shown.
        """
        self.assertEqual(PIN, parse_pin(f" {show_pin(PIN)} "))
        self.assertEqual("A" * 43 + "=", show_pin(bytes(32)))

    def test_text_that_is_no_pin_is_refused_with_a_reason(self) -> None:
        """
        Anything but the base64 of 32 octets is refused, with the reason.
        """
        long = "(44 characters of base64)"
        for text, told in (
            ("not base64!", "pin 'not base64!' is not base64"),
            ("ünicode", "pin 'ünicode' is not base64"),
            ("\udc80", "pin '\\udc80' is not base64"),
            ("-" * 43 + "=", "pin '" + "-" * 43 + "=' is not base64"),
            ("A" * 43, "pin '" + "A" * 43 + "' is not base64"),
            (b64encode(b"short").decode(), f"pin 'c2hvcnQ=' is 5 octets, a SHA-256 pin is 32 {long}"),
            (b64encode(bytes(33)).decode(), f"pin '{'A' * 44}' is 33 octets, a SHA-256 pin is 32 {long}"),
            ("", f"pin '' is 0 octets, a SHA-256 pin is 32 {long}"),
        ):
            self.assertEqual(told, str(self.assertRaises(ValueError, parse_pin, text)))

    def test_any_key_of_the_chain_may_match(self) -> None:
        """
        One of the pins has to be of one of the keys; without pins every chain is accepted (RFC 7858 §4.2).
        """
        self.assertTrue(matches_pins((), []))
        self.assertTrue(matches_pins((PIN,), [b"x", PIN]))
        self.assertTrue(matches_pins((b"backup", PIN), [PIN]))
        self.assertFalse(matches_pins((PIN,), [b"x"]))
        self.assertFalse(matches_pins((PIN,), []))
