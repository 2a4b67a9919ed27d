"""
Headers of the PROXY protocol.
"""

import struct
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.wire.proxy_header import MAX_SIZE, ProxyHeader, parse_proxy_header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def header(
    source: str = "192.0.2.7", port: int = 4711, *, kind: int = 2, version: int = 0x21, tlvs: bytes = b""
) -> bytes:
    """
    A header as balancers write it.
    """
    address = ip_address(source)
    family = 0x10 if address.version == 4 else 0x20
    to = address.packed
    body = address.packed + to + struct.pack("!HH", port, 53) + tlvs
    return SIGNATURE + bytes((version, family | kind)) + struct.pack("!H", len(body)) + body


class ProxyHeaderTests(SynchronousTestCase):
    """
    What is read of them.
    """

    def test_addresses_of_both_families_are_parsed(self) -> None:
        """
        IPv4 and IPv6, of a stream or of a datagram; an IPv4 address in IPv6 is an IPv4 address; TLVs are passed over.
        """
        for kind in range(3):
            for tlvs in (b"", b"\4\0\3abc", bytes(400)):
                for given_address, read in (
                    ("192.0.2.7", "192.0.2.7"),
                    ("2001:db8::7", "2001:db8::7"),
                    ("::ffff:192.0.2.7", "192.0.2.7"),
                ):
                    octets = header(given_address, kind=kind, tlvs=tlvs)
                    self.assertEqual(ProxyHeader(len(octets), read, 4711), parse_proxy_header(octets + b"query"))

    def test_local_header_has_no_client(self) -> None:
        """
        LOCAL is the balancer itself, whatever else the header has; so is a client without an IP address.
        """
        self.assertEqual(ProxyHeader(28, "", 0), parse_proxy_header(header(version=0x20)))
        for family in (b"\x20\0\0\0", b"\x21\0\0\0", b"\x21\1\0\0", b"\x20\x11\0\0", b"\x21\x31\0\xd8" + bytes(216)):
            self.assertEqual(ProxyHeader(12 + len(family), "", 0), parse_proxy_header(SIGNATURE + family))

    def test_every_prefix_of_a_header_is_incomplete(self) -> None:
        """
        Every beginning of a header may become one.
        """
        whole = header("2001:db8::7", tlvs=b"\4\0\3abc")
        for size in range(len(whole)):
            self.assertIs(None, parse_proxy_header(whole[:size]))

    def test_malformed_header_is_an_error(self) -> None:
        """
        Another signature, version, command, family or transport is none; nor is one without room for its addresses, or
        one that is too long, which is known before it is whole.
        """
        whole = header()
        wrong = [
            b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 53\r\n",
            b"\0\x12\1\0\0\1",
            whole[:11] + b"X" + whole[12:],
            header(version=0x11),
            header(version=0x31),
            header(version=0x22),
            header(version=0x2F),
            SIGNATURE + b"\x21\x41\0\0",
            SIGNATURE + b"\x21\x13\0\0",
            SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
            SIGNATURE + b"\x21\x21\0\x23" + bytes(35),
            SIGNATURE + b"\x21\x11" + struct.pack("!H", MAX_SIZE - 15),
            SIGNATURE + b"\x20\0\xff\xff",
        ]
        for octets in wrong:
            self.assertRaises(WireError, parse_proxy_header, octets)

    @given(st.binary(max_size=80), st.booleans())
    def test_any_octets_are_a_header_incomplete_or_an_error(self, octets: bytes, begins_well: bool) -> None:
        """
        Whatever comes is a header, the beginning of one, or an error.
        """
        octets = SIGNATURE + octets if begins_well else octets
        try:
            found = parse_proxy_header(octets)
        except WireError:
            return
        if found is None:
            self.assertTrue(len(octets) < 16 or len(octets) < MAX_SIZE)
        else:
            self.assertLessEqual(found.size, len(octets))
            if found.host:
                ip_address(found.host)
