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

#: Octets in which names, pointers and malice are dense.
dense = st.lists(
    st.one_of(
        st.sampled_from([b"\0", b"\1a", b"\x3f" + b"b" * 63, b"\x3e" + b"c" * 62, b"\x40", b"\x80", b"\xc0"]),
        st.integers(0, 300).map(lambda target: (0xC000 | target).to_bytes(2, "big")),
    ),
    max_size=12,
).map(b"".join)

#: The root's octet included, this is one more than a name may have.
OCTETS_256 = (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0"


class Counted(bytes):
    """
    Octets that count how often one of them is looked at.
    """

    looks = 0

    def __getitem__(self, key: object) -> object:
        """
        Look.
        """
        self.looks += 1
        return super().__getitem__(key)


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
    def test_all_walks_end_at_the_same_octet(self, parts: list[bytes], before: bytes) -> None:
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
    def test_any_octets_are_a_name_or_an_error(self, octets: bytes, offset: int) -> None:
        """
        A walk ends inside the octets or raises WireError; dnspython agrees.
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

    @given(dense, st.integers(0, 300))
    def test_compressed_names_agree_with_dnspython(self, octets: bytes, offset: int) -> None:
        """
        Where dnspython reads a name we read the same one, and where it sees none neither do we (RFC 1035 §4.1.4).
        """
        offset %= len(octets) + 1
        try:
            theirs, length = dns.name.from_wire(octets, offset)
        except dns.exception.DNSException:
            self.assertRaises(WireError, read_name, octets, offset)
            return
        self.assertEqual((theirs.to_wire(), offset + length), read_name(octets, offset))
        self.assertEqual(offset + length, skip_name(octets, offset))

    def test_read_name_follows_compression(self) -> None:
        """
        A pointer continues the name where it points to (RFC 1035 §4.1.4).
        """
        octets = b"\7example\3org\0\3www\xc0\0"
        self.assertEqual((b"\3www\7example\3org\0", 19), read_name(octets, 13))

    def test_pointer_has_fourteen_bits(self) -> None:
        """
        A name may continue anywhere in the first 16,384 octets of a message (RFC 1035 §4.1.4).
        """
        octets = b"\0" * 16383 + b"\3www\0" + b"\xff\xff" + b"\xe0\0"
        self.assertEqual((b"\3www\0", 16390), read_name(octets, 16388))
        self.assertEqual((b"\0", 16392), read_name(octets, 16390))

    def test_hostile_names_are_refused(self) -> None:
        """
        Loops, forward pointers, unknown label types, overlong and unfinished names are errors (RFC 1035 §3.1, §4.1.4).
        """
        backwards = "compression pointer does not point backwards"
        past = "name runs past the end of the message"
        hostile = {
            "points at itself": (b"\xc0\0", 0, backwards),
            "points forward": (b"\xc0\4\0\0\0", 0, backwards),
            "two point at each other": (b"\1a\xc0\4\1b\xc0\0", 4, backwards),
            "points back, and from there forward": (b"\xc0\2\0\0\xc0\0", 4, backwards),
            "points back into a circle": (b"\xc0\2\xc0\0\xc0\0", 4, backwards),
            "label type 0x40": (b"\x41" + b"a" * 65 + b"\0", 0, "unknown label type"),
            "label type 0x80": (b"\x80\0", 0, "unknown label type"),
            "256 octets": (OCTETS_256, 0, "name longer than 255 octets"),
            "no end": (b"\3www", 0, past),
            "a pointer cut in two": (b"\0\xc0", 1, past),
            "a label cut short": (b"\5ab", 0, past),
            "nothing": (b"", 0, past),
        }
        for why, (octets, offset, reason) in hostile.items():
            error = self.assertRaises(WireError, read_name, octets, offset)
            self.assertEqual((reason, None), (error.reason, error.rcode), why)

    def test_more_than_127_pointers_are_refused(self) -> None:
        """
        A name has 127 labels at most, so it needs no more than 127 pointers: 128 are refused.
        """
        chain = b"\0" + b"\xc0\0" + b"".join((0xC000 | 1 + 2 * number).to_bytes(2, "big") for number in range(127))
        self.assertEqual((b"\0", 255), read_name(chain, 253))
        self.assertEqual(
            "more compression pointers than a name can have labels",
            self.assertRaises(WireError, read_name, chain, 255).reason,
        )

    def test_pointer_in_a_question_name_is_refused(self) -> None:
        """
        There is nothing before it to point at; unknown label types and lengths are refused, too.
        """
        hostile = {
            b"\xc0\x0c": "pointer or unknown label type in the question name",
            b"\3www\xc0\0": "pointer or unknown label type in the question name",
            b"\x40\0": "pointer or unknown label type in the question name",
            b"\3www": "question name runs past the end of the message",
            b"\5ab": "question name runs past the end of the message",
            b"": "question name runs past the end of the message",
            OCTETS_256: "question name longer than 255 octets",
        }
        for octets, reason in hostile.items():
            self.assertEqual(reason, self.assertRaises(WireError, skip_question_name, octets, 0).reason, octets)

    def test_skipped_name_is_validated(self) -> None:
        """
        Skipping follows no pointer, but an unknown label type, or no end, is an error.
        """
        self.assertEqual(4, skip_name(b"\1a\xc0\0", 0))
        hostile = {
            b"\x40\0": "unknown label type",
            b"\xbf\0": "unknown label type",
            b"\1a\xc0": "name runs past the end of the message",
            b"\5ab": "name runs past the end of the message",
            b"": "name runs past the end of the message",
        }
        for octets, reason in hostile.items():
            self.assertEqual(reason, self.assertRaises(WireError, skip_name, octets, 0).reason, octets)

    def test_skipped_name_over_255_octets_is_refused(self) -> None:
        """
        Of a name that is skipped, too, 255 octets are the limit, its last one and what a pointer adds included
        (RFC 1035 §2.3.4).
        """
        for octets in (OCTETS_256, OCTETS_256[:-1] + b"\xc0\0"):
            self.assertRaises(WireError, skip_name, octets, 0)

    def test_walk_reads_255_octets_at_most(self) -> None:
        """
        However long the run of labels.
        """
        for walk in (skip_name, read_name, skip_question_name):
            octets = Counted(b"\1a" * 30_000 + b"\0")
            self.assertRaises(WireError, walk, octets, 0)
            self.assertLessEqual(octets.looks, 2 * 255, walk.__name__)

    def test_chain_of_pointers_is_followed_for_127_at_most(self) -> None:
        """
        Pointers that lead to pointers, each strictly backwards, are followed no further than a name has labels.
        """
        chain = b"".join((0xC000 | max(0, at - 2)).to_bytes(2, "big") for at in range(2, 16_000, 2))
        octets = Counted(b"\0\0" + chain)
        with contextlib.suppress(WireError):
            self.assertEqual((b"\0", len(octets)), read_name(octets, len(octets) - 2))
        self.assertLessEqual(octets.looks, 4 * 255)

    def test_name_over_255_octets_by_pointers_is_refused(self) -> None:
        """
        A name that would grow past 255 octets by following pointers is refused, not built.
        """
        octets = b"\x3f" + b"a" * 63 + b"\0"
        for _ in range(4):
            target = len(octets) - (65 if len(octets) == 65 else 66)
            octets += b"\x3f" + b"b" * 63 + (0xC000 | target).to_bytes(2, "big")
        error = self.assertRaises(WireError, read_name, octets, len(octets) - 66)
        self.assertEqual("name longer than 255 octets", error.reason)
        self.assertEqual(64 + 64 + 64 + 1, len(read_name(octets, 65 + 66)[0]))

    def test_name_of_255_octets_is_accepted(self) -> None:
        """
        255 octets are allowed (RFC 1035 §2.3.4).
        """
        wire = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
        self.assertEqual(255, len(wire))
        self.assertEqual(255, skip_question_name(wire, 0))
        self.assertEqual((wire, 255), read_name(wire, 0))
        self.assertEqual(255, skip_name(wire, 0))

    def test_fold_lowers_ascii_letters_only(self) -> None:
        """
        Folding lowers ASCII letters and nothing else, lengths least of all (RFC 4343).
        """
        self.assertEqual(b"\3www\x07ex\xc4mple\0", fold(b"\3wWw\x07eX\xc4MPle\0"))

    def test_invalid_text_is_refused_with_the_reason(self) -> None:
        """
        Empty and overlong labels, overlong names and bad escapes are errors that name what is wrong.
        """
        wrong = {
            "a..b": "label of 0 octets in 'a..b'",
            ".a": "label of 0 octets in '.a'",
            "..": "label of 0 octets in '..'",
            "a" * 64: "label of 64 octets in '" + "a" * 64 + "'",
            ".".join(["a" * 63] * 4): "name longer than 255 octets: '" + "a" * 40 + "'…",
            "a\\": "name ends in a lone backslash",
            "a\\3": "bad escape \\3  ",
            "a\\25.": "bad escape \\25.",
            "a\\256": "bad escape \\256",
        }
        for text, reason in wrong.items():
            self.assertEqual(reason, self.assertRaises(WireError, from_text, text).reason)

    def test_unicode_without_an_a_label_form_is_refused(self) -> None:
        """
        A name beyond ASCII that has no A-label form is refused like any other that is none.
        """
        for text in ("ü" * 64, "ü..b", ".ü"):
            self.assertRaises(WireError, from_text, text)

    def test_escaped_octets_are_part_of_a_label(self) -> None:
        """
        A dot, a backslash and any other octet (RFC 1035 §5.1, RFC 2181 §11).
        """
        self.assertEqual(b"\3a.b\4\\\0\xff(\0", from_text(r"a\.b.\\\000\255\("))
        self.assertEqual(r"a\.b.\\\000\255\(.", to_text(b"\3a.b\4\\\0\xff(\0"))
        self.assertEqual(r"\032\127~!.", to_text(b"\4 \x7f~!\0"))

    def test_decimal_escapes_have_three_digits(self) -> None:
        """
        Each decimal digit begins one, and its value is an octet; what is next to the digits stands for itself.
        """
        for first in "0123456789":
            for text in (f"\\{first}", f"\\{first}0", f"\\{first}0x"):
                self.assertRaises(WireError, from_text, text)
        self.assertEqual(b"\1\x63\0", from_text(r"\099"))
        self.assertEqual(b"\1\xff\0", from_text(r"\255"))
        self.assertRaises(WireError, from_text, r"\256")
        self.assertEqual(b"\2/:\0", from_text(r"\/\:"))

    def test_text_of_the_root_and_of_unicode_is_accepted(self) -> None:
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
