"""
The question of our own by which an upstream shows that it answers.
"""

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream.health_probe import PROBE, PROBE_QUERY


class ProbeTests(SynchronousTestCase):
    """
    What is asked.
    """

    def test_probe_queries_the_root_name_servers_without_rd(self) -> None:
        """
        ``. IN NS``, without RD, padded to 128 octets as every query is (RFC 8467 §4.1), under its own token.
        """
        token, octets, end = PROBE_QUERY
        self.assertIs(PROBE, token)
        message = dns.message.from_wire(octets)
        (question,) = message.question
        self.assertEqual(
            (dns.name.root, dns.rdatatype.NS, dns.rdataclass.IN), (question.name, question.rdtype, question.rdclass)
        )
        self.assertEqual(0, message.flags)
        self.assertEqual((0, 0), (message.edns, message.ednsflags))
        self.assertEqual(128, len(octets))
        self.assertEqual(b"\0\0\2\0\1", octets[12:end])
