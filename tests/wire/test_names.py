"""
Names: where they end, what they are, how they are spelled.
"""

import contextlib

import dns.exception
import dns.name
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.wire.names import fold, from_text, read_name, skip_name, skip_question_name, to_text

labels = st.lists(st.binary(min_size=1, max_size=63), max_size=6).filter(lambda ls: sum(map(len, ls)) + len(ls) < 255)


class NameTests(SynchronousTestCase):
    """
    Each name function, against dnspython and against malice.
    """

    @given(labels)
    def test_text_round_trip_agrees_with_dnspython(self, parts: list[bytes]) -> None:
        """
        Any name has a presentation form that both we and dnspython read back as the same octets.
        """
        wire = dns.name.Name([*parts, b""]).to_wire()
        text = to_text(wire)
        self.assertEqual(wire, from_text(text))
        self.assertEqual(wire, dns.name.from_text(text).to_wire())

    @given(labels, st.binary(max_size=20))
    def test_every_walk_ends_where_the_name_does(self, parts: list[bytes], before: bytes) -> None:
        """
        The three ways to walk an uncompressed name agree on where it ends.
        """
        wire = dns.name.Name([*parts, b""]).to_wire()
        octets = before + wire + b"rest"
        end = len(before) + len(wire)
        self.assertEqual(end, skip_name(octets, len(before)))
        self.assertEqual(end, skip_question_name(octets, len(before)))
        self.assertEqual((wire, end), read_name(octets, len(before)))

    @given(st.binary(max_size=300), st.integers(0, 300))
    def test_arbitrary_octets_are_a_name_or_an_error(self, octets: bytes, offset: int) -> None:
        """
        No octets make a walk do anything but end inside them or raise WireError; dnspython agrees.
        """
        for walk in (skip_name, skip_question_name):
            with contextlib.suppress(WireError):
                self.assertLessEqual(walk(octets, offset), len(octets))
        try:
            name, end = read_name(octets, offset)
        except WireError:
            return
        theirs, length = dns.name.from_wire(octets, offset)
        self.assertEqual((theirs.to_wire(), offset + length), (name, end))

    def test_read_name_follows_compression(self) -> None:
        """
        A pointer continues the name where it points to (RFC 1035 §4.1.4).
        """
        octets = b"\7example\3org\0\3www\xc0\0"
        self.assertEqual((b"\3www\7example\3org\0", 19), read_name(octets, 13))

    def test_hostile_names_are_refused(self) -> None:
        """
        Loops, forward pointers, unknown label types, overlong and unfinished names are errors.
        """
        hostile = {
            "points at itself": (b"\xc0\0", 0),
            "points forward": (b"\xc0\4\0\0\0", 0),
            "two point at each other": (b"\1a\xc0\4\1b\xc0\0", 4),
            "label type 0x40": (b"\x41" + b"a" * 65 + b"\0", 0),
            "label type 0x80": (b"\x80\0", 0),
            "256 octets": (b"\x3f" + b"a" * 63, 0),
            "no end": (b"\3www", 0),
            "a pointer cut in two": (b"\0\xc0", 1),
            "a label cut short": (b"\5ab", 0),
        }
        hostile["256 octets"] = ((b"\x3f" + b"a" * 63) * 4 + b"\0", 0)
        for why, (octets, offset) in hostile.items():
            self.assertRaises(WireError, read_name, octets, offset)
            if "point" not in why or "cut" in why:
                self.assertRaises(WireError, skip_name, octets, offset)
            self.assertRaises(WireError, skip_question_name, octets, offset)

    def test_a_name_grown_by_pointers_is_limited(self) -> None:
        """
        A name that would grow past 255 octets by following pointers is refused, not built.
        """
        octets = b"\x3f" + b"a" * 63 + b"\0"
        for _ in range(4):
            target = len(octets) - (65 if len(octets) == 65 else 66)
            octets += b"\x3f" + b"b" * 63 + (0xC000 | target).to_bytes(2, "big")
        self.assertRaises(WireError, read_name, octets, len(octets) - 66)

    def test_the_longest_name_is_a_name(self) -> None:
        """
        255 octets are allowed (RFC 1035 §2.3.4).
        """
        wire = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
        self.assertEqual(255, len(wire))
        self.assertEqual(255, skip_question_name(wire, 0))
        self.assertEqual((wire, 255), read_name(wire, 0))
        self.assertEqual(255, skip_name(wire, 0))

    def test_fold_touches_letters_only(self) -> None:
        """
        Folding lowers ASCII letters and nothing else, lengths least of all (RFC 4343).
        """
        self.assertEqual(b"\3www\x07ex\xc4mple\0", fold(b"\3wWw\x07eX\xc4MPle\0"))

    def test_text_that_is_no_name_is_refused(self) -> None:
        """
        Empty and overlong labels, overlong names and bad escapes are errors.
        """
        for text in ("a..b", ".a", "a" * 64, ".".join(["a" * 63] * 4), "a\\", "a\\3", "a\\300"):
            self.assertRaises(WireError, from_text, text)

    def test_text_of_the_root_and_of_unicode(self) -> None:
        """
        The root is a dot; a name beyond ASCII is taken in its A-label form.
        """
        self.assertEqual(b"\0", from_text("."))
        self.assertEqual(".", to_text(b"\0"))
        self.assertEqual(b"\x0dxn--bcher-kva\4test\0", from_text("bücher.test"))

    def test_dnspython_refuses_what_we_refuse(self) -> None:
        """
        The pointer rule, strictly backwards, is dnspython's.
        """
        self.assertRaises(dns.exception.FormError, dns.name.from_wire, b"\xc0\0", 0)
