"""
SPKI pins.
"""

from base64 import b64encode
from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.pins import accepts, parse_pin, pin_of, show_pin

PIN = sha256(b"a key").digest()


class PinTests(SynchronousTestCase):
    """
    Reading, showing and matching.
    """

    def test_a_pin_is_the_hash_of_a_key(self) -> None:
        """
        SHA-256 over the SubjectPublicKeyInfo (RFC 7858 §4.2).
        """
        self.assertEqual(PIN, pin_of(b"a key"))

    def test_round_trip(self) -> None:
        """
        A pin is read as it is shown.
        """
        self.assertEqual(PIN, parse_pin(f" {show_pin(PIN)} "))

    def test_what_is_no_pin(self) -> None:
        """
        Anything but the base64 of 32 octets is refused, and told why.
        """
        for text, why in (
            ("not base64!", "is not base64"),
            ("ünicode", "is not base64"),
            (b64encode(b"short").decode(), "is 5 octets, a SHA-256 pin is 32"),
            ("", "is 0 octets"),
        ):
            error = self.assertRaises(ValueError, parse_pin, text)
            self.assertIn(why, str(error))

    def test_any_key_of_the_chain_may_match(self) -> None:
        """
        One of the pins has to be of one of the keys; with no pins everything is accepted.
        """
        self.assertTrue(accepts((), []))
        self.assertTrue(accepts((PIN,), [b"x", PIN]))
        self.assertTrue(accepts((b"backup", PIN), [PIN]))
        self.assertFalse(accepts((PIN,), [b"x"]))
        self.assertFalse(accepts((PIN,), []))
