"""
What a certificate is for: each form of a name, alone and beside a right one.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Untrusted
from tests.upstream.names import DNS, EMAIL, IP, URI, alt_names, entries_for, packed
from tests.upstream.scenes import ADDRESS, AUTHORITY, Scene, make_verifier

NAME = "dns.work.example"

#: Entries with which a certificate is for the name, and those with which it is for the address.
FOR_THE_NAME = {"the name", "upper case", "wildcard", "many"}
FOR_THE_ADDRESS = {"the address"}

#: What cannot be read makes a certificate unusable, whatever else it holds.
UNREADABLE = {"address of three octets", "address of no octets", "not ASCII"}


class Asked:
    """
    A server whose certificate has these entries, and that was asked something.
    """

    def __init__(self, *entries: tuple[int, bytes], name: str | None = NAME, address: str = ADDRESS) -> None:
        issued = AUTHORITY.issue([], common_name=NAME, san=alt_names(*entries))
        self.scene = Scene(issued, make_verifier(name=name, address=address))
        self.scene.connect("question")
        self.is_accepted = self.scene.told.answered_tokens == ["question"]
        self.is_refused = isinstance(self.scene.told.failures[0][1], Untrusted) if self.scene.told.failures else False
        self.reason = self.scene.told.failures[0][1].reason if self.scene.told.failures else ""


class NamesTests(SynchronousTestCase):
    """
    In handshakes: who is asked, and who is not.
    """

    def check(self, name: str | None, right: set[str]) -> None:
        for what, entries in entries_for(NAME, ADDRESS).items():
            asked = Asked(*entries, name=name)
            parts = set(what.split(", then: "))
            expected = bool(parts & right) and not parts & UNREADABLE
            self.assertEqual((expected, not expected), (asked.is_accepted, asked.is_refused), what)
            self.assertEqual(expected, bool(asked.scene.server.queries), what)

    def test_name_and_first_label_wildcard_are_accepted(self) -> None:
        """
        The name and a wildcard for its first label, in either case, are accepted, beside anything that can be read; all
        else is refused (RFC 9525 §6.3).
        """
        self.check(NAME, FOR_THE_NAME)

    def test_address_is_accepted_in_ipaddress_only(self) -> None:
        """
        The address in an iPAddress is accepted; its text in a name, a mapped address or a network is not (RFC 9525 §6.4).
        """
        self.check(None, FOR_THE_ADDRESS)

    def test_trailing_space_is_no_part_of_a_name_and_is_shown(self) -> None:
        """
        A name with a trailing space does not match; the error shows the space.
        """
        self.assertEqual(
            "the certificate is for 'dns.work.example ', not for dns.work.example",
            Asked((DNS, NAME.encode() + b" ")).reason,
        )

    def test_names_in_errors_have_no_line_breaks_and_a_limit(self) -> None:
        """
        Names of a certificate are shown without line breaks and up to a limit.
        """
        reason = Asked((DNS, b"a\nb\x1b[2J"), (DNS, b"l" * 9000), (DNS, b""), (DNS, b"it's")).reason
        expected = f"the certificate is for 'a\\nb\\x1b[2J', '{'l' * 80}...', '', it's, not for dns.work.example"
        self.assertEqual(expected, reason)
        reason = Asked((IP, b"\n" * 9000)).reason
        self.assertTrue(reason.isprintable(), reason)
        self.assertLess(len(reason), 200)

    def test_one_matching_name_beside_unusable_ones_is_accepted(self) -> None:
        """
        One entry that matches is enough, whatever else there is.
        """
        unusable = [b"192.0.2.53", b"*.lan", b"*", b"a.*.x", b"", b"b d", b"123"]
        for entry in [*((DNS, text) for text in unusable), (URI, b"nonsense"), (EMAIL, b"")]:
            for entries in ((entry, (DNS, NAME.encode())), ((DNS, NAME.encode()), entry)):
                self.assertTrue(Asked(*entries).is_accepted, entries)
            self.assertTrue(Asked(entry, (IP, packed(ADDRESS)), name=None).is_accepted, entry)

    def test_wildcard_matches_one_whole_label(self) -> None:
        """
        A wildcard stands for one whole label above two others at least, and for no A-label and none with an underscore.
        """
        for name, pattern, expected in (
            ("a.b.example", "*.b.example", True),
            ("a.b.example", "*.B.EXAMPLE", True),
            ("a.example", "*.example", False),
            ("a.b.c.example", "*.c.example", False),
            ("b.example", "*.b.example", False),
            ("xn--a.b.example", "*.b.example", False),
            ("_a.b.example", "*.b.example", False),
            ("a._b.example", "*._b.example", False),
            ("a.-b.example", "*.-b.example", False),
            ("_a.b.example", "_a.b.example", True),
            ("xn--a.b.example", "xn--a.b.example", True),
        ):
            asked = Asked((DNS, pattern.encode()), name=name)
            reason = "" if expected else f"the certificate is for {pattern}, not for {name}"
            self.assertEqual((expected, reason), (asked.is_accepted, asked.reason))
            self.assertNotEqual(expected, asked.is_refused)

    def test_single_label_name_is_accepted_unless_all_digits(self) -> None:
        """
        A name of one label is a name; one that is all digits is taken for an address, and refused.
        """
        self.assertTrue(Asked((DNS, b"resolver"), name="resolver").is_accepted)
        self.assertTrue(Asked((DNS, b"53"), name="53").is_refused)

    def test_addresses_of_both_families_are_compared_without_zone(self) -> None:
        """
        Of either family; a zone is not part of an address; a mapped address is another one.
        """
        for address, entry, expected in (
            ("2001:db8::53", "2001:db8::53", True),
            ("2001:DB8:0::53", "2001:db8::53", True),
            ("fe80::1%eth0", "fe80::1", True),
            ("::ffff:192.0.2.53", "::ffff:192.0.2.53", True),
            ("::ffff:192.0.2.53", "192.0.2.53", False),
            ("2001:db8::53", "2001:db8::54", False),
        ):
            asked = Asked((IP, packed(entry)), name=None, address=address)
            self.assertEqual((expected, not expected), (asked.is_accepted, asked.is_refused), (address, entry))

    def test_certificate_with_more_than_2000_names_is_refused(self) -> None:
        """
        Beyond 2,000 names none is compared.
        """
        many = [(DNS, b"%x.example" % number) for number in range(1999)]
        self.assertTrue(Asked(*many, (DNS, NAME.encode())).is_accepted)
        asked = Asked(*many, (DNS, b"one.more"), (DNS, NAME.encode()))
        self.assertEqual("the certificate's names cannot be used: there are more than 2000", asked.reason)

    def test_certificates_over_100_kb_fail_the_handshake(self) -> None:
        """
        OpenSSL accepts 100 KB of certificates at most.
        """
        asked = Asked(*[(DNS, b"%x.example" % number) for number in range(9000)], (DNS, NAME.encode()))
        self.assertFalse(asked.is_accepted)
        self.assertIn("excessive message size: it sent more than a handshake may hold", asked.reason)
