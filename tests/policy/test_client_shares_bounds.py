"""
How many addresses and prefixes are remembered, in numbers.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy import client_shares
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.share_settings import ShareSettings


class BoundTests(SynchronousTestCase):
    """
    The tables, at their bounds.
    """

    def test_numbers(self) -> None:
        """
        8192 addresses and as many prefixes are remembered.
        """
        self.assertEqual((8192, 8192), (client_shares.MAX_HOSTS, client_shares.MAX_PREFIXES))

    def test_prefixes_are_evicted_when_the_table_is_full(self) -> None:
        """
        As many as fit are kept; the next one evicts some of the oldest, and is kept.
        """
        shares = ClientShares(ShareSettings(lambda host: True, max_in_flight=100))
        for number in range(8192):
            shares.share_of(f"10.{number >> 8}.{number & 255}.1", 1000.0)
        self.assertEqual(8192, len(shares))
        youngest = shares.share_of("10.31.255.1", 1000.0)
        last = shares.share_of("192.0.2.1", 1000.0)
        self.assertLess(len(shares), 8192)
        self.assertIs(youngest, shares.share_of("10.31.255.1", 1000.0))
        self.assertIs(last, shares.share_of("192.0.2.1", 1000.0))

    def test_client_is_known_after_a_second(self) -> None:
        """
        From then on its queries are charged to an account of its own.
        """
        for seconds, is_known in ((0.9, False), (1.1, True)):
            shares = ClientShares(ShareSettings(lambda host: True, max_in_flight=100))
            for now in (1000.0, 1000.0 + seconds):
                share = shares.share_of("192.0.2.1", now)
                shares.may_send(share, now)
            self.assertEqual(is_known, share.account is share, seconds)

    def test_queue_that_stands_for_20_ms_is_an_overload_for_two_seconds(self) -> None:
        """
        Full reads of 64 datagrams for a shorter time are a burst; a read that is not full ends the queue.
        """
        shares = ClientShares(ShareSettings(lambda host: True, max_in_flight=100))
        for now, count in ((1000.0, 64), (1000.019, 64), (1000.025, 63), (1000.03, 64), (1000.045, 64)):
            shares.note_batch("udp", count, now)
            self.assertEqual(0.0, shares.overloaded_until, now)
        shares.note_batch("udp", 64, 1000.051)
        self.assertAlmostEqual(1002.051, shares.overloaded_until)
