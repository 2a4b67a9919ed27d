"""
Names that are answered here.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.special_names import FAMILIES, PRIVATE_TLDS, LocalAnswer, SpecialNames
from dotproxy.wire.names import from_text

A, DS = 1, 43


class JudgeTests(SynchronousTestCase):
    """
    Which names, and what is said of them.
    """

    def judge(self, name: str, qtype: int = A, forwarded: tuple[str, ...] = ()) -> LocalAnswer | None:
        """
        The kind of answer a name gets.
        """
        verdict = SpecialNames(forwarded).match(from_text(name), qtype)
        return verdict.kind if verdict else None

    def test_each_family_is_answered_by_its_rfc(self) -> None:
        """
        Each name is answered as its RFC says (RFC 6761 §6, 6762 §22.1, 7686 §2, 8375 §4, 9462 §6.4, 9476 §2, 6303 §3).
        """
        expected = {
            "localhost": LocalAnswer.LOOPBACK,
            "x.LocalHost": LocalAnswer.LOOPBACK,
            "invalid": LocalAnswer.NO_NAME,
            "a.b.invalid": LocalAnswer.NO_NAME,
            "www.test": LocalAnswer.NO_NAME,
            "abc.onion": LocalAnswer.NO_NAME,
            "printer.local": LocalAnswer.NO_NAME,
            "local": LocalAnswer.NO_NAME,
            "x.alt": LocalAnswer.NO_NAME,
            "nas.lan": LocalAnswer.NO_NAME,
            "LAN": LocalAnswer.NO_NAME,
            "home": LocalAnswer.NO_NAME,
            "home.arpa": LocalAnswer.NO_DATA,
            "nas.home.arpa": LocalAnswer.NO_NAME,
            "resolver.arpa": LocalAnswer.NO_DATA,
            "_dns.resolver.arpa": LocalAnswer.NO_DATA,
            "1.0.0.10.in-addr.arpa": LocalAnswer.NO_NAME,
            "10.in-addr.arpa": LocalAnswer.NO_DATA,
            "1.1.16.172.in-addr.arpa": LocalAnswer.NO_NAME,
            "1.1.168.192.in-addr.arpa": LocalAnswer.NO_NAME,
            "1.1.64.100.in-addr.arpa": LocalAnswer.NO_NAME,
            "1.1.127.100.in-addr.arpa": LocalAnswer.NO_NAME,
            "1.1.31.172.in-addr.arpa": LocalAnswer.NO_NAME,
            "1.0.0.127.in-addr.arpa": LocalAnswer.NO_NAME,
            "1." + "0." * 31 + "ip6.arpa": LocalAnswer.NO_DATA,
            "a.d.f.ip6.arpa": LocalAnswer.NO_NAME,
            "1.8.e.f.ip6.arpa": LocalAnswer.NO_NAME,
            "8.b.d.0.1.0.0.2.ip6.arpa": LocalAnswer.NO_DATA,
        }
        self.assertEqual(expected, {name: self.judge(name) for name in expected})

    def test_other_names_are_forwarded(self) -> None:
        """
        All other names are forwarded, among them those that only look similar.
        """
        for name in (
            ".",
            "example.org",
            "example.test.org",
            "mylocalhost",
            "notonion",
            "arpa",
            "in-addr.arpa",
            "8.8.8.8.in-addr.arpa",
            "1.1.32.172.in-addr.arpa",
            "1.1.63.100.in-addr.arpa",
            "1.1.128.100.in-addr.arpa",
            "1.1.15.172.in-addr.arpa",
            "ipv4only.arpa",
            "lan.example",
            "corp.example.org",
            "mylan",
            "e.f.ip6.arpa",
            "x\\005onion",
        ):
            self.assertIsNone(self.judge(name), name)

    def test_ds_of_home_arpa_is_forwarded(self) -> None:
        """
        Only upstreams can prove to a validator that home.arpa is not signed (RFC 8375 §4).
        """
        self.assertIsNone(self.judge("home.arpa", DS))
        self.assertEqual(LocalAnswer.NO_NAME, self.judge("x.home.arpa", DS))

    def test_each_family_can_be_forwarded(self) -> None:
        """
        A family that is forwarded goes upstream, the others do not.
        """
        for family, zones in FAMILIES.items():
            for zone in zones:
                self.assertIsNone(self.judge(f"a.{zone}", forwarded=(family,)), zone)
                others = tuple(FAMILIES.keys() - {family})
                self.assertIsNotNone(self.judge(f"a.{zone}", forwarded=others), zone)
        self.assertIsNone(self.judge("localhost", forwarded=tuple(FAMILIES)))

    def test_private_top_level_domains_are_answered_locally(self) -> None:
        """
        What RFC 6762 Appendix G lists as in use in private networks, ``internal`` among it, stays here, at any depth.
        """
        self.assertEqual(("intranet", "internal", "private", "corp", "home", "lan"), PRIVATE_TLDS)
        for name in PRIVATE_TLDS:
            for asked in (name, f"nas.{name}", f"A.b.{name.upper()}"):
                self.assertEqual(LocalAnswer.NO_NAME, self.judge(asked), asked)
                self.assertIsNone(self.judge(asked, forwarded=("private_tlds",)), asked)

    def test_one_private_top_level_domain_can_be_forwarded(self) -> None:
        """
        It is forwarded by its name, and the others are not.
        """
        for name in PRIVATE_TLDS:
            self.assertIsNone(self.judge(f"nas.{name}", forwarded=(name,)), name)
            for other in set(PRIVATE_TLDS) - {name}:
                self.assertEqual(LocalAnswer.NO_NAME, self.judge(f"nas.{other}", forwarded=(name,)), other)

    @given(st.lists(st.binary(min_size=1, max_size=63), max_size=3))
    def test_only_the_last_labels_decide(self, labels: list[bytes]) -> None:
        """
        Any name is judged by its last labels alone.
        """
        name = b"".join(bytes([len(label)]) + label for label in labels)
        special = SpecialNames()
        self.assertEqual(LocalAnswer.NO_NAME, special.match(name + b"\5onion\0", A).kind)
        self.assertIsNone(special.match(name + b"\7example\0", A))
