"""
Which clients are served.
"""

from ipaddress import ip_network
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.schema import PRIVATE_NETWORKS
from dotproxy.policy import access
from dotproxy.policy.access import AccessList


class AdmissionTests(SynchronousTestCase):
    """
    Verdicts by address.
    """

    def setUp(self) -> None:
        """
        The networks that are served when nothing is configured.
        """
        self.admission = AccessList(map(ip_network, PRIVATE_NETWORKS))

    def test_loopback_and_private_networks_are_allowed_by_default(self) -> None:
        """
        Clients of local networks only (RFC 5625 §6.2).
        """
        near = ("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.1.1", "100.64.0.1", "::1")
        for host in (*near, "fd00::1", "fe80::1%eth0", "::ffff:192.168.1.1"):
            self.assertTrue(self.admission.allows(host), host)
        for host in ("192.0.2.1", "172.32.0.1", "2001:db8::1", "::ffff:192.0.2.1", "8.8.8.8", "::"):
            self.assertFalse(self.admission.allows(host), host)

    def test_in_process_client_is_always_allowed(self) -> None:
        """
        Queries of this process are always answered.
        """
        self.assertTrue(AccessList([]).allows(""))

    def test_configured_networks_are_allowed_to_the_address(self) -> None:
        """
        Members of the configured networks are allowed, and no other address.
        """
        admission = AccessList([ip_network("192.0.2.64/28"), ip_network("2001:db8:1::/48")])
        for host in ("192.0.2.64", "192.0.2.79", "2001:db8:1:ffff::1", "::ffff:192.0.2.70"):
            self.assertTrue(admission.allows(host), host)
        for host in ("192.0.2.63", "192.0.2.80", "2001:db8:2::", "2001:db8:0:ffff::1", "127.0.0.1", "::1"):
            self.assertFalse(admission.allows(host), host)

    def test_client_without_an_ip_address_is_not_allowed(self) -> None:
        """
        A client that has no IP address is not served.
        """
        self.assertFalse(self.admission.allows("somewhere"))

    def test_cached_verdicts_are_bounded(self) -> None:
        """
        Forged addresses cannot fill the memory, and verdicts stay the same.
        """
        with mock.patch.object(access, "_REMEMBERED", 4):
            for last in range(20):
                self.assertFalse(self.admission.allows(f"192.0.2.{last}"))
                self.assertTrue(self.admission.allows("127.0.0.1"))
                self.assertLessEqual(len(self.admission._verdicts), 4)
