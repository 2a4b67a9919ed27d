"""
Type numbers and their names.
"""

import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.wire import rrtypes
from dotproxy.wire.rrtypes import META_TYPES, NAMES, SIGNATURE_TYPES, name_of

#: Names that are spelled otherwise here, and types that dnspython does not know, as the IANA registry has them.
OURS = {
    23: "NSAP-PTR",
    40: "SINK",
    66: "DSYNC",
    67: "HHIT",
    68: "BRID",
    262: "WALLET",
}


class NameTests(SynchronousTestCase):
    """
    The table against dnspython's, and the general form.
    """

    def test_known_types_have_their_iana_names(self) -> None:
        """
        Each type that dnspython names has that name here, or the IANA registry's.
        """
        for rtype in dns.rdatatype.RdataType:
            if rtype and rtype.name != "TYPE0":
                name = OURS.get(int(rtype), dns.rdatatype.to_text(rtype))
                self.assertEqual(name, name_of(int(rtype)), int(rtype))
        for number, name in OURS.items():
            self.assertEqual(name, name_of(number))

    def test_unknown_type_is_shown_by_number(self) -> None:
        """
        A type without a name is shown by its number (RFC 3597 §5).
        """
        self.assertEqual(["TYPE0", "TYPE65280", "TYPE65535"], [name_of(number) for number in (0, 65280, 65535)])

    @given(st.integers(0, 65535))
    def test_each_number_has_one_name(self, number: int) -> None:
        """
        Each number has one name, and no two numbers have the same.
        """
        name = name_of(number)
        self.assertRegex(name, r"^[A-Z0-9-]+$")
        self.assertEqual([number], [other for other, its in NAMES.items() if its == name] or [number])

    def test_meta_and_signature_types_are_recognised(self) -> None:
        """
        Meta-types are 128 to 254 (RFC 6895 §3.1); what signs a message is SIG(0) or TSIG.
        """
        self.assertEqual([127, 255], [number for number in range(127, 256) if number not in META_TYPES])
        self.assertEqual({"SIG", "TSIG"}, set(map(name_of, SIGNATURE_TYPES)))

    def test_constants_agree_with_the_table(self) -> None:
        """
        A type that the code names is the one in the table.
        """
        constants = {name: number for name, number in vars(rrtypes).items() if isinstance(number, int)}
        self.assertLessEqual({"A", "AAAA", "SOA", "IXFR", "AXFR", "ANY"}, set(constants))
        for name, number in constants.items():
            self.assertEqual(name, NAMES[number])
