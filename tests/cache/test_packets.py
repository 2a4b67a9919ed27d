"""
The packet cache: responses of this second, by the octets of the query.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.packets import MAX_ENTRIES, MAX_OCTETS, PacketCache
from dotproxy.telemetry.counters import TCP, TLS, UDP
from dotproxy.testing.client import make_query
from dotproxy.testing.zone import A

QUERY = make_query("www.test.", A, ident=0x1234)
OTHER_ID = make_query("www.test.", A, ident=0xABCD)
RESPONSE = b"\x12\x34" + b"a response"


class PacketCacheTests(SynchronousTestCase):
    """
    What is found, for how long, and what is counted.
    """

    def setUp(self) -> None:
        self.counts = [0] * 8
        self.packets = PacketCache(self.counts)

    def add(self, now: float = 1.0, query: bytes = QUERY, kind: int = UDP, place: int = 3) -> None:
        self.packets.entries_for(now, kind)
        self.packets.add(kind, query, RESPONSE, place)

    def test_response_is_found_under_any_id(self) -> None:
        """
        An entry is found by the query's octets without the ID, and carries the ID of the query it is for.
        """
        self.add()
        self.assertEqual(b"\xab\xcd" + b"a response", self.packets.response(1.0, UDP, OTHER_ID))
        self.assertIsNone(self.packets.response(1.0, UDP, OTHER_ID[:-1]))

    def test_udp_and_tcp_have_separate_entries(self) -> None:
        """
        A response over UDP may be truncated; it is no response over TCP.
        """
        self.add(kind=TLS)
        self.assertIsNone(self.packets.response(1.0, UDP, QUERY))
        self.assertIsNone(self.packets.response(1.0, TCP, QUERY))
        self.assertIsNotNone(self.packets.response(1.0, TLS, QUERY))

    def test_entries_are_cleared_as_the_second_ends(self) -> None:
        """
        An entry is valid until the second ends, for all kinds of listeners, however late in the second it was added.
        """
        self.add(now=7.9, kind=UDP)
        self.add(now=7.9, kind=TCP)
        self.assertIsNotNone(self.packets.response(7.999, UDP, QUERY))
        self.assertIsNone(self.packets.response(8.0, UDP, QUERY))
        self.assertIsNone(self.packets.response(8.0, TCP, QUERY))

    def test_entries_of_the_first_second_are_found(self) -> None:
        """
        Time 0 is a time like any other.
        """
        self.add(now=0.0)
        self.assertIsNotNone(self.packets.response(0.5, UDP, QUERY))

    def test_flush_counts_counts_each_hit_once(self) -> None:
        """
        Each hit counts once, for its entry and in all; a second flush of the counts adds nothing.
        """
        self.add(place=3)
        self.add(query=QUERY[:-1], place=5)
        for _ in range(3):
            self.packets.response(1.0, UDP, QUERY)
        self.packets.response(1.0, UDP, QUERY[:-1])
        self.assertEqual(0, self.packets.hits)
        for _ in range(2):
            self.packets.flush_counts()
            self.assertEqual([0, 0, 0, 3, 0, 1, 0, 0], self.counts)
            self.assertEqual(4, self.packets.hits)
        self.packets.response(1.0, UDP, QUERY)
        self.packets.flush_counts()
        self.assertEqual(4, self.counts[3])
        self.assertEqual(5, self.packets.hits)

    def test_hits_are_counted_as_the_second_ends(self) -> None:
        """
        Hits of a second are counted when its entries are cleared.
        """
        self.add()
        self.packets.response(1.0, UDP, QUERY)
        self.packets.entries_for(2.0, UDP)
        self.assertEqual((1, 1), (self.counts[3], self.packets.hits))

    def test_repr_counts_entries_and_hits(self) -> None:
        """
        Hits that are not flushed yet are counted too, and stay as they are.
        """
        self.assertEqual("<PacketCache: 0 entries, 0 hits>", repr(self.packets))
        self.add()
        self.add(kind=TCP)
        self.packets.response(1.0, UDP, QUERY)
        self.packets.flush_counts()
        self.packets.response(1.0, TCP, QUERY)
        self.assertEqual("<PacketCache: 2 entries, 2 hits>", repr(self.packets))
        self.assertEqual(1, self.packets.hits)

    def test_query_and_response_of_1500_octets_are_the_longest(self) -> None:
        """
        Query and response together have 1,500 octets at most; the caller checks that before adding them.
        """
        self.assertEqual(1500, MAX_OCTETS)

    def test_more_than_10_000_entries_clear_the_cache(self) -> None:
        """
        With more than 10,000 of one kind all are cleared, and counted.
        """
        self.assertEqual(10_000, MAX_ENTRIES)
        found = self.packets.entries_for(1.0, UDP)
        for number in range(10_000):
            self.packets.add(UDP, b"id" + number.to_bytes(4, "big"), RESPONSE, 0)
        self.assertIsNotNone(self.packets.response(1.0, UDP, b"id\0\0\0\0"))
        self.assertEqual(10_000, len(found))
        self.packets.add(UDP, b"id and one more", RESPONSE, 0)
        self.assertEqual({}, self.packets.entries_for(1.5, UDP))
        self.assertEqual((1, 1), (self.counts[0], self.packets.hits))
