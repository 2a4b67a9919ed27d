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
from dotproxy.wire.records import scan_records, walk
from dotproxy.wire.rrtypes import OPT


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
        self.assertEqual([(1, 1, 300), (1, 1, 300), (16, 3, 60)], [(r.type, r.rclass, r.ttl) for r in records])
        rdatas = [octets[r.rdata_at : r.end] for r in records]
        self.assertEqual([b"\xc0\0\2\1", b"\xc0\0\2\2", b"\1x"], [*sorted(rdatas[:2]), rdatas[2]])
        self.assertEqual(len(octets), records[-1].end)

    def test_truncated_record_is_an_error(self) -> None:
        """
        A record whose fixed part or rdata is not all there is refused.
        """
        record = b"\0" + b"\0\1\0\1\0\0\0\0\0\4" + b"\x7f\0\0\1"
        for length in range(len(record)):
            self.assertRaises(WireError, list, walk(record[:length], 0, 1))
        self.assertEqual(len(record), next(walk(record, 0, 1)).end)

    @given(st.binary(max_size=80), st.integers(0, 6))
    def test_any_octets_are_records_or_an_error(self, octets: bytes, count: int) -> None:
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

    def test_count_of_zero_reads_no_record(self) -> None:
        """
        Where none is promised none is looked for.
        """
        self.assertEqual([], list(walk(b"\xff", 0, 0)))

    def test_malformed_owner_is_an_error(self) -> None:
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


class ScanTests(SynchronousTestCase):
    """
    The layout of all records at once.
    """

    def test_layout_of_records_with_an_opt_between_them(self) -> None:
        """
        The OPT is found, the last TYPE too, and TTLs are counted from the first record as if there were no OPT.
        """
        record, opt = b"\0\0\1\0\1\0\0\0\5\0\4abcd", b"\0\0\x29\4\xd0\0\0\0\0\0\2xy"
        octets = b"head" + record + opt + record
        layout = scan_records(octets, 4, 1, 2)
        self.assertEqual((19, 32, 33, 47), layout[:4])
        self.assertEqual([5, 20], layout.ttl_offsets)
        self.assertEqual((0, 0, 0, 4, []), scan_records(octets, 4, 0, 0))

    def test_opt_twice_or_out_of_place_is_an_error(self) -> None:
        """
        There is one OPT at most, in the additional section, owned by the root (RFC 6891 §6.1.1).
        """
        opt = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
        self.assertEqual((3, 14), scan_records(b"abc" + opt, 3, 0, 1)[:2])
        for octets, before, additionals in ((opt * 2, 0, 2), (opt, 1, 0), (b"\1a" + opt, 0, 1)):
            error = self.assertRaises(WireError, scan_records, b"abc" + octets, 3, before, additionals)
            self.assertEqual("OPT twice or out of place", error.reason)

    @given(st.binary(max_size=80), st.integers(0, 6))
    def test_scan_and_walk_agree(self, octets: bytes, count: int) -> None:
        """
        Both find the same records in any octets, and the same defects.
        """
        octets = b"header" + octets
        try:
            records = list(walk(octets, 6, count))
        except WireError:
            self.assertRaises(WireError, scan_records, octets, 6, 0, count)
            return
        opts = [record for record in records if record.type == OPT]
        if len(opts) > 1 or any(octets[record.start] for record in opts):
            self.assertRaises(WireError, scan_records, octets, 6, 0, count)
            return
        layout = scan_records(octets, 6, 0, count)
        self.assertEqual(records[-1].end if records else 6, layout.end)
        self.assertEqual((opts[0].start, opts[0].end) if opts else (0, 0), (layout.opt_at, layout.opt_end))
        self.assertEqual(len(records) - len(opts), len(layout.ttl_offsets))
