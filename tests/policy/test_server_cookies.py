"""
Cookies for UDP clients.
"""

import dns.edns
import dns.message
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.policy.server_cookies import ServerCookies
from dotproxy.wire.message import FORMERR, parse_query

HOST = "192.0.2.7"


def cookie_for(cookies: ServerCookies, *values: bytes, host: str = HOST) -> bytes:
    """
    The cookie for a client that sent these.
    """
    options = [dns.edns.GenericOption(10, value) for value in values]
    query = dns.message.make_query("www.test.", "A", use_edns=0, options=options).to_wire()
    return cookies.option_for(query, parse_query(query), host)


class CookieTests(SynchronousTestCase):
    """
    Which cookie a client gets.
    """

    def setUp(self) -> None:
        """
        Cookies.
        """
        self.cookies = ServerCookies(b"s" * 32)

    def test_client_cookie_is_echoed_with_a_server_cookie(self) -> None:
        """
        The client's cookie is sent back with a server cookie of 16 octets (RFC 7873 §5.2.3).
        """
        option = cookie_for(self.cookies, b"12345678")
        self.assertEqual(b"\0\x0a\0\x1812345678", option[:12])
        self.assertEqual(28, len(option))

    def test_server_cookie_depends_on_client_address_and_secret(self) -> None:
        """
        Our half is another for another client, another address and another secret, and else the same, also for a
        client that sent one (RFC 7873 §6, §5.2.4).
        """
        same = {cookie_for(self.cookies, b"12345678" + more) for more in (b"", b"x" * 8, b"x" * 16, b"x" * 32)}
        self.assertEqual(1, len(same))
        others = {
            cookie_for(self.cookies, b"12345679"),
            cookie_for(self.cookies, b"12345678", host="192.0.2.8"),
            cookie_for(ServerCookies(b"t" * 32), b"12345678"),
        }
        self.assertEqual(4, len({cookie[12:] for cookie in same | others}))

    def test_first_cookie_option_is_used(self) -> None:
        """
        Of several only the first is looked at (RFC 7873 §5.2).
        """
        self.assertEqual(cookie_for(self.cookies, b"12345678"), cookie_for(self.cookies, b"12345678", b"x"))

    def test_cookie_of_a_wrong_length_is_malformed(self) -> None:
        """
        Lengths that no cookie has are FORMERR (RFC 7873 §5.2.2).
        """
        for size in (0, 1, 7, 9, 15, 41, 300):
            error = self.assertRaises(WireError, cookie_for, self.cookies, b"x" * size)
            self.assertEqual(FORMERR, error.rcode)

    def test_query_without_cookie_gets_none(self) -> None:
        """
        RFC 7873 §5.2.1.
        """
        self.assertEqual(b"", cookie_for(self.cookies))
