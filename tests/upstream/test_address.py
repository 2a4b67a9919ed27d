"""
How an upstream is written.
"""

from hashlib import sha256
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.pins import show_pin
from dotproxy.upstream.address import UpstreamAddress, endpoint_text, from_parts, parse_upstream
from dotproxy.upstream.presets import PRESETS

PIN, BACKUP = sha256(b"a key").digest(), sha256(b"another").digest()
ONE = (("1.1.1.1", 853),)
SIX = (("2606:4700:4700::1111", 853),)
NAME = "cloudflare-dns.com"


class SpellingTests(SynchronousTestCase):
    """
    Every spelling in use, and what it means.
    """

    def test_every_spelling(self) -> None:
        """
        The spellings of systemd-resolved, Unbound and others all mean what they mean there.
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

    def test_pins_before_and_after_the_name(self) -> None:
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

    def test_presets(self) -> None:
        """
        A preset is one upstream with all its addresses and its name.
        """
        quad9 = parse_upstream("Quad9")
        self.assertEqual("dns.quad9.net", quad9.name)
        self.assertEqual(("9.9.9.9", 853), quad9.addresses[0])
        self.assertEqual(("quad9", "quad9"), (str(quad9), quad9.label))
        for name, (authentication_name, addresses) in PRESETS.items():
            self.assertEqual(authentication_name, parse_upstream(name).name)
            for address in addresses:
                self.assertTrue(ip_address(address).is_global, address)

    @given(
        st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
        st.integers(1, 65535),
        st.sampled_from([None, "dns.example"]),
        st.lists(st.binary(min_size=32, max_size=32), max_size=3),
    )
    def test_the_canonical_spelling_round_trips(
        self, address: object, port: int, name: str | None, pins: list[bytes]
    ) -> None:
        """
        An upstream written out is read back as the same upstream.
        """
        upstream = UpstreamAddress(((str(address), port),), name, tuple(pins))
        self.assertEqual(upstream, parse_upstream(str(upstream)))

    def test_labels(self) -> None:
        """
        A label names who and where, and the port only if it is not 853.
        """
        self.assertEqual("1.1.1.1", parse_upstream("1.1.1.1").label)
        self.assertEqual("dns.example (192.0.2.1:8853)", parse_upstream("192.0.2.1:8853#dns.example").label)
        self.assertEqual("dns.example (2001:db8::1)", parse_upstream("[2001:db8::1]#dns.example").label)
        self.assertEqual("[::1]:8853", parse_upstream("[::1]:8853").label)
        self.assertEqual("[::1]:53", endpoint_text("::1", 53))

    def test_parts(self) -> None:
        """
        The parts of a TOML table mean the same as a SPEC.
        """
        self.assertEqual(UpstreamAddress(ONE, NAME, (PIN,)), from_parts("1.1.1.1", 853, NAME, (show_pin(PIN),)))


class MistakeTests(SynchronousTestCase):
    """
    What is wrong, in one line that says what would be right.
    """

    def test_each_mistake_is_named(self) -> None:
        """
        Nothing that is not understood is guessed at.
        """
        mistakes = {
            "https://1.1.1.1": "only tls:// upstreams are spoken to, not https://",
            "tls://dns.quad9.net": "tls://ADDRESS#dns.quad9.net",
            "quad": "did you mean 'quad9'?",
            "localhost": "neither an IP address nor a preset",
            "1.1.1": "neither an IP address nor a preset",
            "1.1.1.1:0": "port '0' is not a number from 1 to 65535",
            "1.1.1.1:65536": "port '65536' is not a number from 1 to 65535",
            "1.1.1.1:853:a.example#b.example": "gives two names",
            "1.1.1.1#1.1.1.1": "leave the name out to have the address verified",
            "1.1.1.1#[::1]": "IPv6 address; leave the name out",
            "1.1.1.1#not a name": "is not a host name",
            "1.1.1.1#" + "a" * 64 + ".example": "is not a host name",
            "1.1.1.1#" + "ü" * 64: "cannot be a host name",
            "1.1.1.1?pin-sha256=AAAA": "a SHA-256 pin is 32",
            "1.1.1.1?pin=AAAA": "only pin-sha256=BASE64 is",
            "1.1.1.1#a#b": "is not an upstream; write tls://ADDRESS:PORT#NAME",
            "[1.1.1.1": "is not an upstream",
            "1.1.1.1:abc": "write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT",
            "": "is neither an IP address nor a preset",
        }
        for spec, told in mistakes.items():
            error = self.assertRaises(ValueError, parse_upstream, spec)
            self.assertIn(told, str(error), spec)
            self.assertNotIn("\n", str(error))

    def test_parts_that_are_wrong(self) -> None:
        """
        A port that is no number is told so.
        """
        self.assertIn("port 'x'", str(self.assertRaises(ValueError, from_parts, "1.1.1.1", "x")))

    @given(st.text(max_size=60))
    def test_any_text_is_an_upstream_or_a_mistake(self, text: str) -> None:
        """
        No text makes the parser do anything else.
        """
        try:
            self.assertTrue(parse_upstream(text).addresses)
        except ValueError as error:
            self.assertTrue(str(error))
