"""
Who may connect, and who makes room.
"""

from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.connection_table import MAX_NOT_SERVED, ConnectionTable
from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShare, ClientShares
from dotproxy.policy.share_settings import ShareLimits, ShareSettings

FULL = 12


class Connection:
    """
    A connection, idle unless it is said to be owed something.
    """

    def __init__(self, table: ConnectionTable, share: ClientShare, last_used: float) -> None:
        self.share = share
        self.last_used = last_used
        self.is_idle = True
        self.reason: ClientEnd | None = None
        self.looks = 0
        self._table = table

    def abort(self, reason: ClientEnd | None = None) -> None:
        """
        Called by the table.
        """
        self.reason = reason
        self._table.remove(self)

    def close(self, reason: ClientEnd | None = None) -> None:
        """
        Called by nobody here.
        """


class ConnectionTableTests(SynchronousTestCase):
    """
    A table for 12 connections.
    """

    def setUp(self) -> None:
        """
        It is empty; 198.51.100.0/24 is not served, 203.0.113.0/24 exempt.
        """
        self.table = ConnectionTable()
        self.shares = ClientShares(
            ShareSettings(
                lambda host: not host.startswith("198."),
                max_in_flight=10,
                limits=ShareLimits(exempt=(ip_network("203.0.113.0/24"),)),
            )
        )
        self.time = 0.0

    def connect(self, host: str, *, owed: bool = False) -> Connection | None:
        """
        A client connects; None if it is refused.
        """
        self.time += 1
        share = self.shares.share_of(host, self.time)
        if not self.table.make_room(share, FULL):
            return None
        connection = Connection(self.table, share, self.time)
        connection.is_idle = not owed
        self.table.add(connection)
        return connection

    def fill(self, host: str, count: int, *, owed: bool = True) -> list[Connection]:
        """
        A client connects so often, and is not refused.
        """
        made = [self.connect(host, owed=owed) for _ in range(count)]
        return [connection for connection in made if connection is not None]

    def held(self, host: str) -> int:
        """
        How many connections a client has.
        """
        return self.shares.share_of(host, self.time).connections

    def test_client_with_most_connections_makes_room(self) -> None:
        """
        When one client has the whole table, each owed something, others connect, and it is ended connections for them:
        that which was owed something for longest.
        """
        hostile = self.fill("192.0.2.66", FULL)
        for number in range(FULL - 2):
            self.assertIsNotNone(self.connect(f"192.0.2.{number}", owed=True))
        self.assertEqual([ClientEnd.EVICTED] * (FULL - 2) + [None] * 2, [one.reason for one in hostile])
        self.assertEqual(FULL, len(self.table))

    def test_idle_connections_of_that_client_end_first(self) -> None:
        """
        Of the client with most connections the one idle longest ends first, then those with queries in flight.
        """
        hostile = self.fill("192.0.2.66", FULL)
        hostile[5].is_idle = hostile[7].is_idle = True
        hostile[5].last_used = 50.0
        order = [hostile[7], hostile[5], hostile[0]]
        for number, expected in enumerate(order):
            self.connect(f"192.0.2.{number}", owed=True)
            self.assertIs(ClientEnd.EVICTED, expected.reason)

    def test_client_with_most_connections_is_refused_or_ends_an_idle_one(self) -> None:
        """
        A client that has as many as any other is refused, or one of its own idle connections makes room.
        """
        others = self.fill("192.0.2.1", 4)
        hostile = self.fill("192.0.2.66", 8)
        self.assertIsNone(self.connect("192.0.2.66", owed=True))
        hostile[3].is_idle = True
        others[0].is_idle = True
        self.assertIsNotNone(self.connect("192.0.2.66", owed=True))
        self.assertEqual((ClientEnd.EVICTED, None), (hostile[3].reason, others[0].reason))
        self.assertEqual((8, 4), (self.held("192.0.2.66"), self.held("192.0.2.1")))

    def test_flood_of_one_client_ends_no_connection_of_others(self) -> None:
        """
        While it connects again and again, whoever holds a few keeps them.
        """
        few = self.fill("192.0.2.1", 2) + self.fill("192.0.2.2", 2)
        self.fill("192.0.2.66", 500)
        self.fill("192.0.2.67", 500)
        self.assertEqual([None] * 4, [one.reason for one in few])
        self.assertEqual((4, 4), (self.held("192.0.2.66"), self.held("192.0.2.67")))

    def test_longest_idle_connection_makes_room_if_each_client_has_one(self) -> None:
        """
        No connection with queries in flight is ended.
        """
        every = [self.connect(f"192.0.2.{number}") for number in range(FULL)]
        for one in every[:3]:
            assert one is not None
            one.is_idle = False
        self.assertIsNotNone(self.connect("192.0.2.100", owed=True))
        self.assertEqual([3], [number for number, one in enumerate(every) if one is not None and one.reason])
        for one in every:
            assert one is not None
            one.is_idle = False
        self.assertIsNone(self.connect("192.0.2.101", owed=True))

    def test_addresses_of_one_ipv6_prefix_are_one_client(self) -> None:
        """
        Addresses of one IPv6 /56 are one client.
        """
        for number in range(FULL):
            self.connect(f"2001:db8:0:{number:x}::1", owed=True)
        for number in range(FULL - 2):
            self.assertIsNotNone(self.connect(f"192.0.2.{number}", owed=True))
        self.assertIsNone(self.connect("2001:db8:0:77::1", owed=True))
        self.assertEqual(2, self.held("2001:db8::"))

    def test_refused_clients_share_a_few_connections(self) -> None:
        """
        Together they have a few, and make room first.
        """
        table = self.table
        for number in range(50):
            share = self.shares.share_of(f"198.51.100.{number}", self.time)
            self.assertTrue(table.make_room(share, 1000))
            table.add(Connection(table, share, number))
        self.assertEqual((16, 16), (MAX_NOT_SERVED, len(table)))
        self.assertEqual([50.0 - MAX_NOT_SERVED + n for n in range(MAX_NOT_SERVED)], [one.last_used for one in table])
        served = self.shares.share_of("192.0.2.1", self.time)
        for _ in range(MAX_NOT_SERVED):
            self.assertTrue(table.make_room(served, MAX_NOT_SERVED))
            table.add(Connection(table, served, self.time))
        self.assertEqual([served] * MAX_NOT_SERVED, [one.share for one in table])
        self.assertFalse(table.make_room(self.shares.share_of("198.51.100.1", self.time), MAX_NOT_SERVED))

    def test_exempt_client_loses_no_connection_in_use(self) -> None:
        """
        An exempt client loses no connection with queries in flight, and gets room from the client with most.
        """
        exempt = self.fill("203.0.113.1", FULL - 3)
        self.fill("192.0.2.66", 3)
        self.assertIsNotNone(self.connect("192.0.2.67", owed=True))
        self.assertIsNone(self.connect("192.0.2.67", owed=True))
        self.assertEqual([None] * len(exempt), [one.reason for one in exempt])
        self.assertIsNotNone(self.connect("203.0.113.1", owed=True))
        self.assertEqual((FULL - 2, 1), (self.held("203.0.113.1"), self.held("192.0.2.66")))

    def test_last_connection_removes_its_client(self) -> None:
        """
        When the last connection of a client has ended, the table knows nothing of it; that it ended may be told twice.
        """
        made = [one for number in range(100) for one in self.fill(f"192.0.{number}.1", 1, owed=False)]
        for connection in tuple(self.table):
            self.table.remove(connection)
            self.table.remove(connection)
        self.assertEqual(100, len(made))
        self.assertEqual(({}, {}, 0), (self.table._clients, self.table._by_count, self.table._most))
        self.assertEqual(0, self.held("192.0.1.1"))

    def test_work_is_independent_of_the_table_size(self) -> None:
        """
        With 5,000 connections in use, a new one looks at a few of them.
        """
        looks = 0

        class Watched(Connection):
            @property
            def is_idle(self) -> bool:
                nonlocal looks
                looks += 1
                return False

            @is_idle.setter
            def is_idle(self, value: bool) -> None:
                pass

        share = self.shares.share_of("192.0.2.66", 0.0)
        for number in range(5000):
            self.table.add(Watched(self.table, share, number))
        for number in range(100):
            other = self.shares.share_of(f"192.0.3.{number}", 0.0)
            self.assertTrue(self.table.make_room(other, 5000))
            self.table.add(Watched(self.table, other, number))
        self.assertLess(looks, 100 * 40)

    def test_idle_connection_is_found_among_300(self) -> None:
        """
        Of 300 connections one is idle: it is found after a few newcomers, since others are looked at each time.
        """
        share = self.shares.share_of("192.0.2.66", 0.0)
        every = [Connection(self.table, share, number) for number in range(300)]
        for connection in every:
            connection.is_idle = False
            self.table.add(connection)
        every[250].is_idle = True
        tries = [self.table.make_room(share, 300) for _ in range(10)]
        self.assertIn(True, tries)
        self.assertIs(ClientEnd.EVICTED, every[250].reason)

    def test_32_connections_are_compared(self) -> None:
        """
        The one unused for longest of these is closed, whatever comes after them; the next time others are compared.
        """
        table = ConnectionTable()
        share = self.shares.share_of("192.0.2.1", 0.0)
        connections = [Connection(table, share, 100.0 + number) for number in range(40)]
        for connection in connections:
            table.add(connection)
        connections[31].last_used, connections[32].last_used = 2.0, 1.0
        other = self.shares.share_of("192.0.2.2", 0.0)
        for closed in (31, 32):
            self.assertTrue(table.make_room(other, len(table)))
            self.assertIs(ClientEnd.EVICTED, connections[closed].reason)
