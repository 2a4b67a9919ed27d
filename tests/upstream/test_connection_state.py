"""
States of a connection: what may follow what, and how they are counted as text.
"""

from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream.connection_state import (
    CLOSED,
    CLOSING,
    DIALLING,
    DRAINING,
    READY,
    RETIRED,
    SUSPECT,
    TRANSITIONS,
    ConnectionState,
    ForbiddenTransition,
    follow,
    summary,
)


class Connection(NamedTuple):
    """
    A connection in a state, with so many queries in flight.
    """

    state: ConnectionState
    outstanding: int = 0


class TransitionTests(SynchronousTestCase):
    """
    The table.
    """

    def test_each_state_has_the_documented_transitions(self) -> None:
        """
        As in the drawing at the head of the module.
        """
        allowed = {
            (one.name, other.name) for one in ConnectionState for other in ConnectionState if other in TRANSITIONS[one]
        }
        expected = {("DIALLING", "READY"), ("READY", "SUSPECT"), ("SUSPECT", "READY"), ("DRAINING", "RETIRED")}
        for state in ("READY", "SUSPECT"):
            expected |= {(state, following) for following in ("DRAINING", "RETIRED", "CLOSING")}
        expected.add(("DRAINING", "CLOSING"))
        expected |= {(state.name, "CLOSED") for state in ConnectionState if state is not CLOSED}
        self.assertEqual(expected, allowed)

    def test_follow_returns_what_the_table_allows(self) -> None:
        """
        Anything else is an error that names both states.
        """
        self.assertIs(SUSPECT, follow(READY, SUSPECT))
        error = self.assertRaises(ForbiddenTransition, follow, RETIRED, READY)
        self.assertEqual("a connection that is RETIRED cannot become READY", str(error))

    def test_nothing_follows_closed(self) -> None:
        """
        Not even itself: the end is reported once.
        """
        for state in ConnectionState:
            self.assertRaises(ForbiddenTransition, follow, CLOSED, state)

    def test_states_that_take_queries_come_before_draining(self) -> None:
        """
        The pool compares with ``<``.
        """
        self.assertEqual([DIALLING, READY, SUSPECT], [state for state in ConnectionState if state < DRAINING])


class SummaryTests(SynchronousTestCase):
    """
    Connections by their states, as text.
    """

    def test_states_are_counted_in_their_order(self) -> None:
        """
        Queries in flight are added up for each state; states without a connection are left out.
        """
        connections = [Connection(CLOSING), Connection(DRAINING, 2), Connection(READY, 1), Connection(READY, 2)]
        self.assertEqual("2 ready (3 in flight), 1 draining (2 in flight), 1 closing", summary(connections))

    def test_dials_are_counted_as_dialling(self) -> None:
        """
        Before all others.
        """
        self.assertEqual("3 dialling, 1 suspect", summary([Connection(SUSPECT)], dials=3))

    def test_no_connection(self) -> None:
        """
        Without any it says so.
        """
        self.assertEqual("no connection", summary([]))
