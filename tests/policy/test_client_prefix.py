"""
Which addresses are one client.
"""

from ipaddress import ip_address

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.client_prefix import address_of, prefix_of


class PrefixTests(SynchronousTestCase):
    """
    The prefix of an address.
    """

    def same(self, one: str, other: str, bits_v4: int = 32, bits_v6: int = 56) -> bool:
        return prefix_of(one, bits_v4, bits_v6) == prefix_of(other, bits_v4, bits_v6)

    def test_ipv4_address_is_a_client_with_32_bits(self) -> None:
        """
        With 32 bits each IPv4 address is a client, spelled as it is.
        """
        self.assertEqual("192.0.2.1", prefix_of("192.0.2.1", 32, 56))
        self.assertFalse(self.same("192.0.2.0", "192.0.2.1"))

    def test_ipv4_network_is_a_client_with_fewer_bits(self) -> None:
        """
        With fewer bits the addresses that share them are one client, up to the last address of the network.
        """
        self.assertTrue(self.same("192.0.2.0", "192.0.2.255", 24))
        self.assertFalse(self.same("192.0.2.255", "192.0.3.0", 24))
        self.assertTrue(self.same("192.0.2.0", "192.0.2.1", 31))
        self.assertFalse(self.same("192.0.2.1", "192.0.2.2", 31))
        self.assertTrue(self.same("0.0.0.1", "255.0.0.1", 0))

    def test_ipv6_network_of_56_bits_is_a_client(self) -> None:
        """
        The first 56 bits of an IPv6 address are one client, at any other number likewise.
        """
        self.assertTrue(self.same("2001:db8:0:ff00::", "2001:db8:0:ffff:ffff:ffff:ffff:ffff"))
        self.assertFalse(self.same("2001:db8:0:ff00::", "2001:db8:0:fe00::"))
        self.assertTrue(self.same("2001:db8::1", "2001:db8:0:0:ffff::", bits_v6=64))
        self.assertFalse(self.same("2001:db8::1", "2001:db8:0:1::1", bits_v6=64))
        self.assertFalse(self.same("2001:db8::1", "2001:db8::2", bits_v6=128))

    def test_each_link_local_address_is_a_client(self) -> None:
        """
        All hosts of a link have the same prefix: each whole address is a client (RFC 4291 §2.5.6), in any scope.
        """
        self.assertFalse(self.same("fe80::1", "fe80::2"))
        self.assertTrue(self.same("fe80::1%eth0", "fe80::1%eth1"))

    def test_networks_of_both_families_differ(self) -> None:
        """
        No IPv4 network has the prefix of an IPv6 network.
        """
        self.assertNotEqual(prefix_of("0.0.0.1", 8, 8), prefix_of("::1", 8, 8))

    def test_mapped_addresses_are_ipv4(self) -> None:
        """
        A socket that serves both families spells IPv4 addresses as IPv6 (RFC 4291 §2.5.5.2).
        """
        self.assertEqual("192.0.2.1", prefix_of("::ffff:192.0.2.1", 32, 56))
        self.assertEqual(ip_address("192.0.2.1"), address_of("::ffff:192.0.2.1"))

    def test_text_that_is_no_address_is_its_own_prefix(self) -> None:
        """
        It stands for itself.
        """
        self.assertIsNone(address_of("a socket"))
        self.assertEqual("a socket", prefix_of("a socket", 32, 56))

    def test_scope_is_no_part_of_the_address(self) -> None:
        """
        A scope names a link of this machine and is no part of the address (RFC 4007 §11).
        """
        self.assertEqual(ip_address("fe80::1"), address_of("fe80::1%eth0"))
        self.assertEqual(ip_address("192.0.2.1"), address_of("192.0.2.1"))
