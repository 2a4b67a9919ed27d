"""
Records: where they lie.
"""

import dns.message
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
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
        rdatas = [octets[r.rdata_at : r.end] for r in records]
        self.assertEqual([b"\xc0\0\2\1", b"\xc0\0\2\2", b"\1x"], [*sorted(rdatas[:2]), rdatas[2]])
        self.assertEqual(len(octets), records[-1].end)

    def test_a_record_cut_short_is_an_error(self) -> None:
        """
        A record whose fixed part or rdata is not all there is refused.
        """
        record = b"\0" + b"\0\1\0\1\0\0\0\0\0\4" + b"\x7f\0\0\1"
        for length in range(len(record)):
            self.assertRaises(WireError, list, walk(record[:length], 0, 1))
        self.assertEqual(len(record), next(walk(record, 0, 1)).end)

    @given(st.binary(max_size=80), st.integers(0, 6))
    def test_arbitrary_octets_are_records_or_an_error(self, octets: bytes, count: int) -> None:
        """
        Whatever the octets, records lie one after the other inside them, until WireError says where they end.
        """
        at = 0
        try:
            for record in walk(octets, 0, count):
                self.assertEqual(at, record.start)
                self.assertTrue(at < record.rdata_at <= record.end <= len(octets), record)
                at = record.end
                count -= 1
        except WireError:
            self.assertGreater(count, 0)
        else:
            self.assertEqual(0, count)

    def test_no_records(self) -> None:
        """
        Where none is promised none is looked for.
        """
        self.assertEqual([], list(walk(b"\xff", 0, 0)))

    def test_an_owner_that_is_no_name_is_an_error(self) -> None:
        """
        A record's owner may end in a pointer, and must be a name (RFC 1035 §4.1.4).
        """
        fixed = b"\0\1\0\1\0\0\0\0\0\0"
        self.assertEqual(14, next(walk(b"\1a\xc0\0" + fixed, 0, 1)).end)
        for owner in (b"\x40\0", b"\x80\0", b"\xc0", (b"\x3f" + b"a" * 63) * 4 + b"\0"):
            self.assertRaises(WireError, list, walk(owner + fixed, 0, 1))

    def test_more_records_promised_than_sent_is_an_error(self) -> None:
        """
        A count larger than the records there are is refused.
        """
        record = b"\0" + b"\0\1\0\1\0\0\0\0\0\0"
        self.assertEqual(1, len(list(walk(record, 0, 1))))
        self.assertRaises(WireError, list, walk(record, 0, 2))
