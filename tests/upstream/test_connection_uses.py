"""
What isolated connections are used for.
"""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.retry import Isolation
from dotproxy.upstream.connection_uses import UNUSED, ConnectionUses, Phase
from dotproxy.upstream.query_groups import QueryGroup


class ConnectionUsesTests(SynchronousTestCase):
    """
    Connections are any objects.
    """

    def test_connections_of_a_phase_are_in_the_order_they_entered_it(self) -> None:
        """
        However long they have been in the table.
        """
        uses = ConnectionUses()
        a: Any
        b: Any
        a, b = "a", "b"
        uses.set(a, Phase.IDLE)
        uses.set(b, Phase.IDLE)
        uses.set(a, Phase.ENDING)
        uses.set(a, Phase.IDLE)
        self.assertEqual(["b", "a"], uses.in_phase(Phase.IDLE))
        self.assertEqual((2, ["b", "a"]), (len(uses), list(uses)))

    def test_groups_are_those_of_the_phase(self) -> None:
        """
        A connection without a group has none to return.
        """
        uses = ConnectionUses()
        names: list[Any] = ["a", "b", "c"]
        group = QueryGroup([], Isolation.LAST)
        uses.set(names[0], Phase.PROVING, group)
        uses.set(names[1], Phase.SETTLING)
        uses.set(names[2], Phase.BUSY, group)
        self.assertEqual([group], uses.groups(Phase.PROVING))
        self.assertEqual([], uses.groups(Phase.SETTLING))

    def test_an_unknown_connection_is_used_for_nothing(self) -> None:
        """
        Before it is added, and after it is removed.
        """
        uses = ConnectionUses()
        connection: Any = "a"
        self.assertEqual((UNUSED, UNUSED), (uses[connection], uses.remove(connection)))
        uses.set(connection, Phase.IDLE)
        self.assertEqual(Phase.IDLE, uses.remove(connection).phase)
        self.assertEqual((0, UNUSED), (len(uses), uses[connection]))
