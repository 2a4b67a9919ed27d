"""
Which queries ask the same question.
"""

import itertools

import dns.edns
import dns.flags
import dns.message
import dns.tsig
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.key import is_unusual, key_of, name_in
from dotproxy.errors import WireError
from dotproxy.wire.message import parse_query
from dotproxy.wire.rewrite import ClientSubnet, EdnsRewriter

NSID = dns.edns.GenericOption(3, b"")
COOKIE = dns.edns.GenericOption(10, b"cookie!!")


def make(name: str = "www.test.", rtype: str = "A", flags: int = 0x100, **changes: object) -> bytes:
    """
    A query.
    """
    rclass = str(changes.pop("rclass", "IN"))
    query = dns.message.make_query(name, rtype, rclass, **changes)
    query.flags = dns.flags.Flag(flags)
    return query.to_wire()


def key(wire: bytes, subnet: ClientSubnet = ClientSubnet.PRIVATE) -> bytes:
    """
    Its key.
    """
    info = parse_query(wire)
    if info.opt_at:
        info = info._replace(forwarded_options=EdnsRewriter(subnet=subnet).forwarded_options(wire, info))
    return key_of(wire, info)


class KeyTests(SynchronousTestCase):
    """
    What matters and what does not.
    """

    def test_spelling_id_edns_ad_tc_and_cookies_do_not_change_the_key(self) -> None:
        """
        The response is the same for all of them (RFC 4343 §3).
        """
        same = [
            make(),
            make("WwW.tEsT."),
            make(id=7),
            make(use_edns=0),
            make(use_edns=0, payload=4096),
            make(flags=0x120),
            make(flags=0x300),
            make(flags=0x320, use_edns=0),
            make(use_edns=0, options=[COOKIE]),
        ]
        self.assertEqual(1, len({key(wire) for wire in same}))
        self.assertTrue(key(same[0]))

    def test_key_is_lower_case_name_type_class_and_flags(self) -> None:
        """
        The name in lower case, type and class, and one octet for CD and DO.
        """
        question = b"\3www\4test\0" + b"\0\1" + b"\0\1"
        self.assertEqual(
            [question + mark for mark in (b"\0", b"\1", b"\2", b"\3")],
            [
                key(make("WWW.test.", flags=flags, use_edns=0, ednsflags=edns_flags))
                for edns_flags in (0, 0x8000)
                for flags in (0x100, 0x110)
            ],
        )

    def test_name_type_class_do_and_cd_change_the_key(self) -> None:
        """
        Name, type, class, DO (RFC 3225 §3) and CD belong to the key; a type is not folded like a name.
        """
        others = [
            make(),
            make("ww.test."),
            make("w.ww.test."),
            make(rtype="TYPE65"),
            make(rtype="TYPE97"),
            make(rtype="TYPE256"),
            make(rclass="CH"),
            make(use_edns=0, ednsflags=0x8000),
            make(flags=0x110),
            make(flags=0x110, use_edns=0, ednsflags=0x8000),
            make(rtype="ANY"),
        ]
        for one, other in itertools.combinations(others, 2):
            self.assertNotEqual(key(one), key(other))
        self.assertTrue(all(map(key, others)))

    def test_queries_that_cannot_be_cached_have_no_key(self) -> None:
        """
        Without RD, with other flags, options that travel (NSID, RFC 5001 §2.1), other records, signatures, or of types that are
        no data.
        """
        signed = dns.message.make_query("www.test.", "A")
        signed.use_tsig(dns.tsig.Key("key.", b"secret"))
        extra = dns.message.make_query("www.test.", "A")
        extra.additional.append(dns.rrset.from_text("x.test.", 1, "IN", "A", "192.0.2.1"))
        alone = [
            *(make(flags=flags) for flags in (0, 0x140, 0x180, 0x200, 0x340, 0x500)),
            make(use_edns=0, options=[NSID]),
            make(use_edns=0, ednsflags=0x4000),
            *(make(rtype=rtype) for rtype in ("TYPE128", "TYPE249", "TYPE253", "TYPE254")),
            signed.to_wire(),
            extra.to_wire(),
        ]
        self.assertEqual([b""] * len(alone), [key(wire) for wire in alone])

    def test_forwarded_client_subnet_is_part_of_the_key(self) -> None:
        """
        Where they are passed on, each has an answer of its own (RFC 7871 §7.5); with more options it is for one alone.
        """
        subnets = [dns.edns.ECSOption("192.0.2.0", bits) for bits in (0, 16, 24)]
        asked = [make(use_edns=0, options=[subnet]) for subnet in subnets] + [make()]
        self.assertEqual(4, len({key(wire, ClientSubnet.PASS) for wire in asked} - {b""}))
        self.assertEqual(1, len({key(wire) for wire in asked}))
        self.assertEqual(b"", key(make(use_edns=0, options=[subnets[0], NSID]), ClientSubnet.PASS))
        self.assertEqual(b"", key(make(use_edns=0, options=[NSID, subnets[0]]), ClientSubnet.PASS))

    def test_overlong_client_subnet_has_no_key(self) -> None:
        """
        Longer than any address: for one alone, since keys are kept, and a key has no octets to spare.
        """
        long = make(use_edns=0, options=[dns.edns.GenericOption(8, bytes(21))])
        longest = make(use_edns=0, options=[dns.edns.ECSOption("2001:db8::1", 128)])
        self.assertEqual(b"", key(long, ClientSubnet.PASS))
        self.assertNotEqual(b"", key(longest, ClientSubnet.PASS))

    def test_key_begins_with_its_name(self) -> None:
        """
        A key begins with its name.
        """
        self.assertEqual(b"\3www\4test\0", name_in(key(make("WWW.test."))))
        self.assertEqual(b"\0", name_in(key(make("."))))

    @given(st.binary(max_size=80))
    def test_any_parsed_query_has_a_valid_key_or_none(self, wire: bytes) -> None:
        """
        Any octets that parse as a query have no key, or one that begins with its name in lower case.
        """
        try:
            info = parse_query(wire)
        except WireError:
            return
        found = key_of(wire, info)
        if found:
            self.assertEqual(wire[12 : info.question_end - 4].lower(), name_in(found))


class UnusualTests(SynchronousTestCase):
    """
    Queries that servers may treat unlike others.
    """

    def is_unusual(self, wire: bytes) -> bool:
        return is_unusual(wire, parse_query(wire))

    def test_queries_for_data_types_and_any_are_ordinary(self) -> None:
        """
        QUERY with RD, class IN, of any type of data, and ANY.
        """
        for rtype in ("A", "TXT", "TYPE127", "TYPE255", "TYPE256", "TYPE65280"):
            self.assertFalse(self.is_unusual(make(rtype=rtype)), rtype)
        self.assertFalse(self.is_unusual(make(flags=0x130, use_edns=0, ednsflags=0x8000)))

    def test_queries_without_rd_of_other_classes_or_meta_types_are_unusual(self) -> None:
        """
        RD clear, other classes, types from 128 to 254, and signed queries.
        """
        for flags in (0x0000, 0x0010, 0x0020):
            self.assertTrue(self.is_unusual(make(flags=flags)), hex(flags))
        for rclass in ("CH", "NONE", "ANY", "CLASS0", "CLASS257", "CLASS256", "CLASS65281"):
            self.assertTrue(self.is_unusual(make(rclass=rclass)), rclass)
        for rtype in ("TYPE128", "TYPE200", "TYPE254"):
            self.assertTrue(self.is_unusual(make(rtype=rtype)), rtype)
        signed = make()[:10] + b"\0\1" + make()[12:] + b"\0\0\xfa\0\xff\0\0\0\0\0\0"
        self.assertTrue(self.is_unusual(signed))
