"""
The table of connections: which is active, which are spare.
"""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream.connection_state import DRAINING, READY, RETIRED, SUSPECT, ConnectionState
from dotproxy.upstream.connection_table import ConnectionTable


class Connection:
    """
    A connection in a state, with so many queries in flight.
    """

    def __init__(self, state: ConnectionState = READY, outstanding: int = 0) -> None:
        self.state = state
        self.outstanding = outstanding


class ConnectionTableTests(SynchronousTestCase):
    """
    Three open connections, the first of them active.
    """

    def setUp(self) -> None:
        """
        Add them in order.
        """
        self.table = ConnectionTable()
        self.connections: list[Any] = [Connection(outstanding=number) for number in range(3)]
        for connection in self.connections:
            self.table.add(connection)
        self.table.active = self.connections[0]

    def test_spares_are_the_other_open_ones(self) -> None:
        """
        In the order in which they became spare; suspect is open, draining is not.
        """
        first, second, third = self.connections
        self.assertEqual([second, third], self.table.spares)
        second.state, third.state = SUSPECT, DRAINING
        self.assertEqual([second], self.table.spares)
        self.assertEqual(first, self.table.active)

    def test_one_connection_has_no_spares(self) -> None:
        """
        The table is not searched for it.
        """
        for connection in self.connections[1:]:
            self.table.remove(connection)
        self.assertEqual((1, []), (len(self.table), self.table.spares))

    def test_the_former_active_one_is_the_newest_spare(self) -> None:
        """
        It is activated again before any other.
        """
        first, second, third = self.connections
        self.table.activate(second)
        self.assertEqual([third, first], self.table.spares)
        second.state = DRAINING
        self.table.activate_spare()
        self.assertEqual(first, self.table.active)

    def test_without_a_spare_none_is_active(self) -> None:
        """
        What drains takes no queries.
        """
        for connection in self.connections:
            connection.state = DRAINING
        self.table.activate_spare()
        self.assertIsNone(self.table.active)

    def test_a_spare_takes_the_place_of_the_active_one(self) -> None:
        """
        One that is removed twice, or was never added, is no error.
        """
        first, second, third = self.connections
        self.table.remove(first)
        self.table.remove(first)
        self.assertEqual((third, 2, False), (self.table.active, len(self.table), first in self.table))
        self.table.remove(third)
        self.table.remove(second)
        self.assertEqual((None, 0), (self.table.active, len(self.table)))

    def test_connections_by_state(self) -> None:
        """
        A retired one has handed its queries back; a draining one has not.
        """
        first, second, third = self.connections
        second.state, third.state = DRAINING, RETIRED
        self.assertEqual([second], self.table.in_state(DRAINING))
        self.assertEqual([first, second], self.table.before_retirement)
        self.assertEqual(3, self.table.outstanding)
        self.assertEqual(self.connections, list(self.table))
