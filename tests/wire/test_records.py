"""
Records: where they lie.
"""

import dns.message
import dns.rrset
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.wire.message import question_of
from dotproxy.wire.records import walk


class WalkTests(SynchronousTestCase):
    """
    Walking over records.
    """

    def test_every_record_is_found(self) -> None:
        """
        Type, class, TTL and rdata of each record are where dnspython put them.
        """
        message = dns.message.make_query("www.example.org", "A")
        message.answer.append(dns.rrset.from_text("www.example.org.", 300, "IN", "A", "192.0.2.1", "192.0.2.2"))
        message.authority.append(dns.rrset.from_text("example.org.", 60, "CH", "TXT", '"x"'))
        octets = message.to_wire()
        records = list(walk(octets, question_of(octets), 3))
        self.assertEqual([(1, 1, 300), (1, 1, 300), (16, 3, 60)], [(r.type, r.klass, r.ttl) for r in records])
        rdatas = {octets[r.rdata_at : r.end] for r in records}
        self.assertEqual({b"\xc0\0\2\1", b"\xc0\0\2\2", b"\1x"}, rdatas)
        self.assertEqual(len(octets), records[-1].end)

    def test_a_record_cut_short_is_an_error(self) -> None:
        """
        A record whose fixed part or rdata is not all there is refused.
        """
        record = b"\0" + b"\0\1\0\1\0\0\0\0\0\4" + b"\x7f\0\0\1"
        for length in range(len(record)):
            self.assertRaises(WireError, list, walk(record[:length], 0, 1))
        self.assertEqual(len(record), next(walk(record, 0, 1)).end)

    def test_more_records_promised_than_sent_is_an_error(self) -> None:
        """
        A count larger than the records there are is refused.
        """
        record = b"\0" + b"\0\1\0\1\0\0\0\0\0\0"
        self.assertRaises(WireError, list, walk(record, 0, 2))
