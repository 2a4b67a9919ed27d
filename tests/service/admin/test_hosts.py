"""
Whom a request may be meant for.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.admin.hosts import is_loopback, is_own_host

LOCAL = ("localhost", "LOCALHOST:9953", "127.0.0.1", "127.9.9.9:9953", "[::1]:9953", "dotproxy.localhost", None, "")
NEAR = (
    "192.0.2.1:9953",
    "[2001:db8::1]",
    "dotproxy",
    "dotproxy:9953",
    "dotproxy.dns.svc:9953",
    "dotproxy.dns.svc.cluster.local",
    "nas.home.arpa.",
    "box.local",
    "box.internal",
)
STRANGE = (
    "evil.example",
    "evil.example:9953",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "local.evil.example",
    "evillocal.example",
    "1.2.3",
    "a b",
    "evil.example#localhost",
    "user@localhost",
    "[::1",
    "::1",
    "[::1].evil.example",
    "localhost:x",
    "\x00",
    "x" * 300,
    "dns.example.com",
)


class HostTests(SynchronousTestCase):
    """
    By where it listens, and by what the operator allows.
    """

    def test_listener_at_loopback_accepts_local_names_only(self) -> None:
        """
        Only this machine's own names and addresses are meant there.
        """
        for text in LOCAL:
            self.assertTrue(is_own_host(text, at_loopback=True, names=()), text)
        for text in NEAR + STRANGE:
            self.assertFalse(is_own_host(text, at_loopback=True, names=()), text)

    def test_listener_elsewhere_accepts_addresses_and_private_names(self) -> None:
        """
        Every address, and names that no stranger can own: those of a house or a cluster.
        """
        for text in LOCAL + NEAR:
            self.assertTrue(is_own_host(text, at_loopback=False, names=()), text)
        for text in STRANGE:
            self.assertFalse(is_own_host(text, at_loopback=False, names=()), text)

    def test_configured_names_are_accepted(self) -> None:
        """
        In any case and at any port; "*" is any.
        """
        for at_loopback in (True, False):
            for text in ("dns.example.com", "DNS.Example.com:9953", "dns.example.com."):
                self.assertTrue(is_own_host(text, at_loopback=at_loopback, names=("dns.example.com",)), text)
            self.assertFalse(is_own_host("a.dns.example.com", at_loopback=at_loopback, names=("dns.example.com",)))
            for text in STRANGE:
                self.assertTrue(is_own_host(text, at_loopback=at_loopback, names=("*",)), text)

    def test_loopback_addresses_are_recognised(self) -> None:
        """
        Addresses of this machine's alone.
        """
        self.assertEqual(
            [True, True, False, False], [is_loopback(one) for one in ("127.0.0.2", "::1", "::", "0.0.0.0")]
        )
        self.assertFalse(is_loopback("fe80::1%eth0"))
