"""
Octets that TCP clients have not read.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.unread_responses import UnreadResponses
from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShare

MIB = 1 << 20


class Connection:
    """
    A connection that records why it is aborted, and then has nothing unread.
    """

    def __init__(self, unread: UnreadResponses, share: ClientShare) -> None:
        self.unread = unread
        self.share = share
        self.ended: ClientEnd | None = None

    def abort(self, reason: ClientEnd | None = None) -> None:
        self.ended = reason
        self.unread.update(self, 0)


class UnreadTests(SynchronousTestCase):
    """
    The limits: 2 MiB of one connection, 32 MiB of all.
    """

    def setUp(self) -> None:
        self.unread = UnreadResponses()

    def connect(self, prefix: str = "192.0.2.1", share: ClientShare | None = None) -> Connection:
        return Connection(self.unread, share or ClientShare(prefix, 0.0, 0.0))

    def test_unread_octets_are_summed_by_client_and_in_all(self) -> None:
        """
        The share of the client and the total have the sum of its connections.
        """
        share = ClientShare("192.0.2.1", 0.0, 0.0)
        one, two = self.connect(share=share), self.connect(share=share)
        self.unread.update(one, 100)
        self.unread.update(two, 50)
        self.unread.update(one, 70)
        self.assertEqual((120, 120), (self.unread.total, share.unread))
        self.unread.update(one, 0)
        self.assertEqual((50, 50), (self.unread.total, share.unread))
        self.unread.update(two, 0)
        self.unread.update(two, 0)
        self.assertEqual((0, 0), (self.unread.total, share.unread))

    def test_connection_over_2_mib_is_aborted(self) -> None:
        """
        Its client then counts as not reading for 30 s.
        """
        connection = self.connect()
        self.unread.update(connection, 2 * MIB, 100.0)
        self.assertIsNone(connection.ended)
        self.unread.update(connection, 2 * MIB + 1, 100.0)
        self.assertEqual(ClientEnd.UNREAD, connection.ended)
        self.assertEqual(
            (0, 0, 130.0), (self.unread.total, connection.share.unread, connection.share.does_not_read_until)
        )

    def test_over_32_mib_in_all_connections_with_most_are_aborted(self) -> None:
        """
        Connections of the clients with most are aborted until an eighth of the limit is free.
        """
        connections = [self.connect(f"192.0.2.{number}") for number in range(16)]
        for connection in connections:
            self.unread.update(connection, 2 * MIB)
        self.assertEqual(32 * MIB, self.unread.total)
        self.assertEqual([None] * 16, [connection.ended for connection in connections])
        last = self.connect("192.0.2.99")
        self.unread.update(last, 1, 5.0)
        ended = [connection for connection in connections if connection.ended]
        self.assertEqual((3, {ClientEnd.UNREAD_IN_ALL}), (len(ended), {connection.ended for connection in ended}))
        self.assertEqual({35.0}, {connection.share.does_not_read_until for connection in ended})
        self.assertEqual((26 * MIB + 1, None), (self.unread.total, last.ended))
