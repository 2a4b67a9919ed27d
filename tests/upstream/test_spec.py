"""
How an upstream is written.
"""

from hashlib import sha256
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.pins import show_pin
from dotproxy.upstream.presets import PRESETS
from dotproxy.upstream.spec import UpstreamAddress, endpoint_text, from_parts, parse_upstream

PIN, BACKUP = sha256(b"a key").digest(), sha256(b"another").digest()
ONE = (("1.1.1.1", 853),)
SIX = (("2606:4700:4700::1111", 853),)
NAME = "cloudflare-dns.com"


class SpellingTests(SynchronousTestCase):
    """
    Every spelling in use, and what it means.
    """

    def test_spellings_of_other_programs_are_accepted(self) -> None:
        """
        The spellings of systemd-resolved, Unbound and others have the meaning they have there.
        """
        expected = {
            "tls://1.1.1.1": UpstreamAddress(ONE),
            "1.1.1.1": UpstreamAddress(ONE),
            " TLS://1.1.1.1 ": UpstreamAddress(ONE),
            "1.1.1.1:8853": UpstreamAddress((("1.1.1.1", 8853),)),
            "tls://1.1.1.1:853#cloudflare-dns.com": UpstreamAddress(ONE, NAME),
            "tls://1.1.1.1#Cloudflare-DNS.com.": UpstreamAddress(ONE, NAME),
            "tls://[2606:4700:4700::1111]:853#cloudflare-dns.com": UpstreamAddress(SIX, NAME),
            "[2606:4700:4700::1111]": UpstreamAddress(SIX),
            "2606:4700:4700:0::1111": UpstreamAddress(SIX),
            "tls://2606:4700:4700::1111": UpstreamAddress(SIX),
            "1.1.1.1:853#cloudflare-dns.com": UpstreamAddress(ONE, NAME),
            "1.1.1.1@853#cloudflare-dns.com": UpstreamAddress(ONE, NAME),
            "[2606:4700:4700::1111]@853#cloudflare-dns.com": UpstreamAddress(SIX, NAME),
            "1.1.1.1:853:cloudflare-dns.com": UpstreamAddress(ONE, NAME),
            "tls://1.1.1.1#bücher.example": UpstreamAddress(ONE, "xn--bcher-kva.example"),
        }
        for spec, address in expected.items():
            self.assertEqual(address, parse_upstream(spec), spec)

    def test_name_may_follow_a_percent_sign(self) -> None:
        """
        As CoreDNS has it: %NAME after the address or after the port.
        """
        name = "dns.quad9.net"
        four, six = UpstreamAddress((("9.9.9.9", 853),), name), UpstreamAddress((("2620:fe::fe", 853),), name)
        expected = {
            "9.9.9.9%dns.quad9.net": four,
            "tls://9.9.9.9%dns.quad9.net": four,
            "tls://9.9.9.9%dns.quad9.net:853": four,
            "9.9.9.9:853%dns.quad9.net": four,
            "9.9.9.9@853%DNS.Quad9.Net.": four,
            "2620:fe::fe%dns.quad9.net": six,
            "tls://2620:fe::fe%dns.quad9.net:853": six,
            "[2620:fe::fe%dns.quad9.net]:853": six,
            "[2620:fe::fe]:853%dns.quad9.net": six,
        }
        self.assertEqual(expected, {spec: self.meaning(spec) for spec in expected})

    def test_zone_of_a_link_local_address_is_kept(self) -> None:
        """
        An address of one link alone has the interface with it (RFC 4007 §11), wherever it stands; so written it
        is read back.
        """
        where = (("fe80::1%eth0.100", 853),)
        plain, named = UpstreamAddress(where), UpstreamAddress(where, "dot.example")
        expected = {
            "fe80::1%eth0.100": plain,
            "FE80::1%eth0.100": plain,
            "tls://[fe80::1%eth0.100]": plain,
            "tls://[fe80::1%25eth0.100]:853": plain,
            "fe80::1%eth0.100@853": plain,
            "fe80::1%eth0.100:853": plain,
            "[fe80::1%eth0.100]:853#dot.example": named,
            "[fe80::1]:853%eth0.100#dot.example": named,
            "fe80::1%eth0.100#dot.example": named,
        }
        self.assertEqual(expected, {spec: self.meaning(spec) for spec in expected})
        self.assertEqual("tls://[fe80::1%eth0.100]:853", str(plain))
        self.assertEqual("fe80::1%eth0.100", plain.label)
        for spec in ("fe80::1%eth0#dot.example", "[fe80::1%2]:8853", "fe80::1%25x"):
            self.assertEqual(parse_upstream(spec), parse_upstream(str(parse_upstream(spec))))

    def test_interface_for_a_global_address_is_refused(self) -> None:
        """
        The connection would not be bound to the interface.
        """
        for spec in ("1.1.1.1:853%eth0#one.example", "1.1.1.1%eth0.100", "2620:fe::fe%eth0", "a.example%eth0"):
            told = str(self.assertRaises(ValueError, parse_upstream, spec))
            self.assertIn("can be given for a link-local address only, as fe80::1%eth0", told)
        self.assertIn("gives two names", self.meaning("9.9.9.9%a.example#b.example"))
        self.assertIn("gives two names", self.meaning("9.9.9.9:853:a.example%b.example"))
        for spec in ("1.1.1.1%", "1.1.1.1%a.example%b.example", "%eth0", "fe80::1%"):
            self.assertRaises(ValueError, parse_upstream, spec)

    def test_ipv6_without_brackets_may_have_a_name_or_pins(self) -> None:
        """
        IPv6 without brackets is all address, with a name or pins after it as without, the way systemd-resolved
        takes it: its last group is not taken for a port.
        """
        pin = f"pin-sha256={show_pin(PIN)}"
        quad9 = (("2620:fe::fe:10", 853),)
        expected = {
            "2606:4700:4700::1111#cloudflare-dns.com": UpstreamAddress(SIX, NAME),
            "tls://2606:4700:4700::1111#cloudflare-dns.com": UpstreamAddress(SIX, NAME),
            "2620:fe::fe:10#dns10.quad9.net": UpstreamAddress(quad9, "dns10.quad9.net"),
            f"2001:db8::1:2:3?{pin}": UpstreamAddress((("2001:db8::1:2:3", 853),), None, (PIN,)),
            "2620:fe::fe:10@8853#dns10.quad9.net": UpstreamAddress((("2620:fe::fe:10", 8853),), "dns10.quad9.net"),
        }
        otherwise = {spec: str(self.meaning(spec)) for spec in expected if self.meaning(spec) != expected[spec]}
        self.assertEqual({}, otherwise)

    def test_scheme_may_be_in_capitals(self) -> None:
        """
        A scheme is the same in any case (RFC 3986 §3.1), before every kind of address.
        """
        for spec in ("TLS://1.1.1.1", "Tls://[::1]:853", "TLS://2606:4700:4700::1111"):
            self.assertEqual(self.meaning(spec.lower()), self.meaning(spec), spec)

    def test_percent_encoding_ignores_case(self) -> None:
        """
        The octets of base64 that a URL escapes may be escaped in capitals or not (RFC 3986 §2.1).
        """
        pin = b"\xfb\xff" * 16
        text = show_pin(pin)
        self.assertEqual({"+", "/", "="}, {"+", "/", "="} & set(text))
        for plus, slash, equals in (("%2B", "%2F", "%3D"), ("%2b", "%2f", "%3d")):
            spec = "1.1.1.1?pin-sha256=" + text.replace("+", plus).replace("/", slash).replace("=", equals)
            self.assertEqual(UpstreamAddress(ONE, None, (pin,)), self.meaning(spec), spec)

    def meaning(self, spec: str) -> object:
        """
        What a SPEC means, or is said to be wrong with it.
        """
        try:
            return parse_upstream(spec)
        except ValueError as error:
            return str(error)

    def test_pins_may_come_before_or_after_the_name(self) -> None:
        """
        Pins follow a question mark, joined by &, before the name or after it.
        """
        one, two = f"pin-sha256={show_pin(PIN)}", f"pin-sha256={show_pin(BACKUP)}"
        both = UpstreamAddress(ONE, NAME, (PIN, BACKUP))
        self.assertEqual(both, parse_upstream(f"tls://1.1.1.1#{NAME}?{one}&{two}"))
        self.assertEqual(both, parse_upstream(f"tls://1.1.1.1:853?{one}&{two}#{NAME}"))
        self.assertEqual(both, parse_upstream(f"1.1.1.1@853?{one}#{NAME}?{two}"))
        self.assertEqual(UpstreamAddress(ONE, None, (PIN,)), parse_upstream(f"1.1.1.1?{one}"))
        escaped = one.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D").replace("%3D", "=", 1)
        self.assertEqual(UpstreamAddress(ONE, None, (PIN,)), parse_upstream(f"1.1.1.1?{escaped}"))

    def test_preset_is_one_upstream_with_its_addresses_and_name(self) -> None:
        """
        A preset is one upstream with all its addresses and its name.
        """
        quad9 = parse_upstream("Quad9")
        self.assertEqual("dns.quad9.net", quad9.name)
        self.assertEqual(("9.9.9.9", 853), quad9.addresses[0])
        self.assertEqual(("quad9", "quad9"), (str(quad9), quad9.label))
        for name, (authentication_name, addresses) in PRESETS.items():
            upstream = parse_upstream(name)
            self.assertEqual((authentication_name, (), name), (upstream.name, upstream.pins, upstream.preset))
            self.assertEqual(tuple((address, 853) for address in addresses), upstream.addresses)
            for address in addresses:
                self.assertTrue(ip_address(address).is_global, address)

    def test_preset_may_have_a_weight_and_pins(self) -> None:
        """
        A weight and pins may follow a preset's name; so written it is read back.
        """
        pins = f"pin-sha256={show_pin(PIN)}&pin-sha256={show_pin(BACKUP)}"
        heavy, pinned = parse_upstream("Quad9?weight=3"), parse_upstream(f"quad9?{pins}&weight=2")
        self.assertEqual(("quad9", 3, ()), (heavy.preset, heavy.weight, heavy.pins))
        self.assertEqual((2, (PIN, BACKUP)), (pinned.weight, pinned.pins))
        self.assertEqual(parse_upstream("quad9").addresses, heavy.addresses)
        self.assertEqual(("quad9?weight=3", "quad9"), (str(heavy), heavy.label))
        for upstream in (heavy, pinned):
            self.assertEqual(upstream, parse_upstream(str(upstream)))
        self.assertIn("weight '0' is not", self.meaning("quad9?weight=0"))
        self.assertIn("'colour' is not known here", self.meaning("quad9?colour=red"))

    def test_presets_have_canonical_distinct_addresses_of_both_families(self) -> None:
        """
        Every preset has addresses of both families, each spelled canonically, and no two share one.
        """
        every = [address for _, addresses in PRESETS.values() for address in addresses]
        self.assertEqual([str(ip_address(address)) for address in every], every)
        self.assertEqual(len(set(every)), len(every))
        for name, (authentication_name, addresses) in PRESETS.items():
            self.assertEqual({4, 6}, {ip_address(address).version for address in addresses}, name)
            given = UpstreamAddress(((addresses[0], 853),), authentication_name)
            self.assertEqual(given, parse_upstream(str(given)), "its name is a name")

    @given(
        st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
        st.integers(1, 65535),
        st.sampled_from([None, "dns.example"]),
        st.lists(st.binary(min_size=32, max_size=32), max_size=3),
    )
    def test_canonical_spelling_round_trips(
        self, address: object, port: int, name: str | None, pins: list[bytes]
    ) -> None:
        """
        An upstream written out is parsed as the same upstream.
        """
        upstream = UpstreamAddress(((str(address), port),), name, tuple(pins))
        self.assertEqual(upstream, parse_upstream(str(upstream)))

    def test_label_has_name_address_and_an_unusual_port(self) -> None:
        """
        A label has the port only if it is not 853.
        """
        self.assertEqual("1.1.1.1", parse_upstream("1.1.1.1").label)
        self.assertEqual("dns.example (192.0.2.1:8853)", parse_upstream("192.0.2.1:8853#dns.example").label)
        self.assertEqual("dns.example (2001:db8::1)", parse_upstream("[2001:db8::1]#dns.example").label)
        self.assertEqual("[::1]:8853", parse_upstream("[::1]:8853").label)
        self.assertEqual("[::1]:53", endpoint_text("::1", 53))

    def test_table_parts_mean_the_same_as_a_spec(self) -> None:
        """
        The parts of a TOML table mean the same as a SPEC.
        """
        self.assertEqual(UpstreamAddress(ONE, NAME, (PIN,)), from_parts("1.1.1.1", 853, NAME, (show_pin(PIN),)))


class NameTests(SynchronousTestCase):
    """
    Upstreams given by name.
    """

    def test_name_is_looked_up_and_verified_and_round_trips(self) -> None:
        """
        It is looked up, and verified unless another name is given; its spelling round-trips.
        """
        for spec, host, name, canonical, label in (
            ("tls://dns.quad9.net", ("dns.quad9.net", 853), "dns.quad9.net", "tls://dns.quad9.net", "dns.quad9.net"),
            (
                "DNS.Quad9.Net:8853",
                ("dns.quad9.net", 8853),
                "dns.quad9.net",
                "tls://dns.quad9.net:8853",
                "dns.quad9.net:8853",
            ),
            (
                "a.example#b.example",
                ("a.example", 853),
                "b.example",
                "tls://a.example#b.example",
                "b.example (a.example)",
            ),
        ):
            upstream = parse_upstream(spec)
            self.assertEqual((host, name, ()), (upstream.host, upstream.name, upstream.addresses))
            self.assertEqual((canonical, label), (str(upstream), upstream.label))
            self.assertEqual(upstream, parse_upstream(canonical))


class MistakeTests(SynchronousTestCase):
    """
    What is wrong, in one line that says what would be right.
    """

    def test_each_mistake_is_an_error_that_names_it(self) -> None:
        """
        No malformed part is guessed at.
        """
        mistakes = {
            "https://1.1.1.1": "only tls:// upstreams are spoken to, not https://",
            "quad": "did you mean 'quad9'?",
            "localhost": "neither an IP address, nor a host name, nor a preset",
            "1.1.1": "neither an IP address, nor a host name, nor a preset",
            "1.1.1.1:0": "port '0' is not a number from 1 to 65535",
            "1.1.1.1:65536": "port '65536' is not a number from 1 to 65535",
            "1.1.1.1:853:a.example#b.example": "gives two names",
            "1.1.1.1#1.1.1.1": "leave the name out to have the address verified",
            "1.1.1.1#[::1]": "IPv6 address; leave the name out",
            "1.1.1.1?pin-sha256": "pin '' is 0 octets",
            "1.1.1.1/24": "'1.1.1.1/24' is ",
            "1.1.1.1#not a name": "is not a host name",
            "1.1.1.1#.": "is not a host name",
            "1.1.1.1#-a.example": "is not a host name",
            "1.1.1.1#a..example": "is not a host name",
            "1.1.1.1#" + ".".join(["a" * 49] * 6): "is not a host name",
            "1.1.1.1#" + "a" * 64 + ".example": "is not a host name",
            "1.1.1.1#" + "ü" * 64: "cannot be a host name",
            "1.1.1.1?pin-sha256=AAAA": "a SHA-256 pin is 32",
            "1.1.1.1?pin=AAAA": "only pin-sha256=BASE64 and weight=N are",
            "1.1.1.1#a#b": "is not an upstream; write tls://ADDRESS:PORT#NAME",
            "[1.1.1.1": "is not an upstream",
            "1.1.1.1:abc": "IPv6 with a port as [ADDRESS]:PORT",
            "": "is neither an IP address, nor a host name, nor a preset",
        }
        for spec, told in mistakes.items():
            error = self.assertRaises(ValueError, parse_upstream, spec)
            self.assertIn(told, str(error), spec)
            self.assertNotIn("\n", str(error))

    def test_second_port_is_not_parsed_as_the_name(self) -> None:
        """
        A number cannot be the name to verify.
        """
        for spec in ("1.1.1.1:853:853", "1.1.1.1@853:8853", "1.1.1.1#853"):
            self.assertIn("is not a host name", str(self.assertRaises(ValueError, parse_upstream, spec)), spec)

    def test_preset_with_port_or_name_is_refused(self) -> None:
        """
        A preset has its port and name; one written with others is not told that it is no preset, and to write
        what was written.
        """
        for spec in ("quad9:853", "tls://quad9", "quad9#dns.quad9.net", "quad9#a.example?weight=3", "quad9%eth0"):
            told = str(self.assertRaises(ValueError, parse_upstream, spec))
            self.assertNotIn("did you mean 'quad9'", told, spec)
            self.assertIn("quad9", told, spec)

    def test_port_outside_1_to_65535_is_refused(self) -> None:
        """
        A port that is no number from 1 to 65535 is told so.
        """
        for port in ("x", "8_53", "٣", "-1", "0", 0, -1, 65536):
            error = self.assertRaises(ValueError, from_parts, "1.1.1.1", port)
            self.assertEqual(f"port {port!r} is not a number from 1 to 65535", str(error))
        for port, taken in (("1", 1), (65535, 65535), ("", 853), (None, 853)):
            self.assertEqual((("1.1.1.1", taken),), from_parts("1.1.1.1", port).addresses)

    @given(st.text(max_size=60))
    def test_any_text_parses_and_round_trips_or_is_refused(self, text: str) -> None:
        """
        No text raises anything but the parser's error, and what parses is parsed the same from its spelling.
        """
        self.judge(text)

    def judge(self, text: str) -> None:
        """
        See that a text is an upstream that can be written out, or a mistake told in one line.
        """
        try:
            upstream = parse_upstream(text)
        except ValueError as error:
            self.assertNotIsInstance(error, UnicodeError)
            self.assertNotIn("\n", str(error))
        else:
            self.assertEqual(upstream, parse_upstream(str(upstream)))

    @given(st.text("1:.[]#?@&=tls/-ax%fe80", max_size=20))
    def test_text_of_spec_characters_parses_or_is_refused(self, text: str) -> None:
        """
        Nor does text made of a SPEC's characters.
        """
        self.judge(text)
