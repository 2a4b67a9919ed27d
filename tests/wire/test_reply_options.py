"""
Idle timeouts that upstreams grant.
"""

import dns.edns
import dns.message
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.wire.reply_options import KEEPALIVE_HEAD, keepalive_of


def reply_with(*options: dns.edns.Option, edns: bool = True, question: bool = True) -> bytes:
    """
    A reply with these options.
    """
    reply = dns.message.make_response(dns.message.make_query("www.test.", "A"))
    if edns:
        reply.use_edns(0, options=list(options))
    if not question:
        reply.question = []
    return reply.to_wire()


class KeepaliveTests(SynchronousTestCase):
    """
    What a reply says (RFC 7828 §3.1).
    """

    @given(st.integers(0, 65535))
    def test_a_timeout(self, tenths: int) -> None:
        """
        A timeout is found among other options, and the quick look does not miss it.
        """
        option = dns.edns.GenericOption(11, tenths.to_bytes(2, "big"))
        for question in (True, False):
            reply = reply_with(dns.edns.GenericOption(65001, b"x"), option, question=question)
            self.assertIn(KEEPALIVE_HEAD, reply)
            self.assertEqual(tenths, keepalive_of(reply))

    def test_nothing(self) -> None:
        """
        No OPT, no option, or one without a timeout say nothing.
        """
        for reply in (reply_with(edns=False), reply_with(), reply_with(dns.edns.GenericOption(11, b""))):
            self.assertIsNone(keepalive_of(reply))

    @given(st.binary(min_size=12, max_size=80))
    def test_any_octets(self, octets: bytes) -> None:
        """
        Whatever comes, it is a number or nothing.
        """
        self.assertIn(type(keepalive_of(octets)), (int, type(None)))
