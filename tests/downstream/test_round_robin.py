"""
Turns of TCP connections, on a clock that stands still but for what handing on takes.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.round_robin import RoundRobin
from dotproxy.policy.client_shares import ClientShare


class Iterations(Clock):
    """
    A clock that calls what is asked for "at once" in the next iteration, as a reactor does.
    """

    def callLater(self, delay, function, *args, **kwargs):
        return super().callLater(delay + 1, function, *args, **kwargs)


class Connection:
    """
    A connection with so many batches to hand on, each of which takes a millisecond.
    """

    def __init__(self, scene: "RoundRobinTests", host: str, batches: int) -> None:
        self.share = ClientShare(host, 0.0, 0.0)
        self.is_waiting = False
        self.host = host
        self.batches = batches
        self.error: Exception | None = None
        self.is_aborted = False
        self._scene = scene

    def take_turn(self) -> bool:
        """
        Called when it is its turn.
        """
        self._scene.order.append(self)
        self._scene.time += 0.001
        self.batches -= 1
        if self.error is not None:
            raise self.error
        return self.batches > 0

    def abort(self) -> None:
        """
        Called when it cannot go on.
        """
        self.is_aborted = True


class RoundRobinTests(SynchronousTestCase):
    """
    Five milliseconds between two iterations of the reactor.
    """

    def setUp(self) -> None:
        """
        Nobody waits.
        """
        self.clock = Iterations()
        self.time = 100.0
        self.order: list[Connection] = []
        self.round_robin = RoundRobin(self.clock, lambda: self.time, 0.0045)

    def begin(self, connection: Connection) -> None:
        """
        A connection has queries to hand on.
        """
        self.round_robin.schedule(connection, self.time)

    def iteration(self) -> list[Connection]:
        """
        Let the reactor go on; return who had a turn.
        """
        self.order.clear()
        self.clock.advance(1)
        return list(self.order)

    def test_queries_are_handed_on_at_once_within_the_time(self) -> None:
        """
        While there is time queries are handed on when they arrive, without a reactor call.
        """
        one, other = Connection(self, "a", 2), Connection(self, "b", 2)
        self.begin(one)
        self.begin(other)
        self.assertEqual([one, one, other, other], self.order)
        self.assertEqual(([], 0), (self.clock.getDelayedCalls(), len(self.round_robin)))

    def test_time_is_bounded_between_iterations(self) -> None:
        """
        However many connections have queries, and however many those are, no more than five batches go on at a time.
        """
        connections = [Connection(self, f"h{number}", 4) for number in range(50)]
        for connection in connections:
            self.begin(connection)
        self.assertEqual(5, len(self.order))
        had = list(self.order)
        while self.clock.getDelayedCalls():
            self.assertEqual(1, len(self.clock.getDelayedCalls()))
            turns = self.iteration()
            self.assertLessEqual(len(turns), 5)
            had += turns
        self.assertEqual(200, len(had))
        self.assertEqual([0] * 50, [connection.batches for connection in connections])

    def test_next_iteration_has_its_full_time(self) -> None:
        """
        When the time is up and nobody waits, one call of the reactor's says that there is time again; then there is
        none.
        """
        self.begin(Connection(self, "a", 5))
        self.assertEqual((1, 0), (len(self.clock.getDelayedCalls()), len(self.round_robin)))
        late = Connection(self, "a", 1)
        self.begin(late)
        self.assertTrue(late.is_waiting)
        self.assertEqual([late], self.iteration())
        self.assertEqual([], self.clock.getDelayedCalls())
        self.begin(Connection(self, "a", 4))
        self.assertEqual(5, len(self.order))

    def test_clients_take_turns(self) -> None:
        """
        One connection of a client is not kept waiting by twenty of another's, and of those each has its turn.
        """
        self.begin(Connection(self, "spent", 5))
        crowd = [Connection(self, "many", 2) for _ in range(20)]
        alone = Connection(self, "alone", 3)
        for connection in (*crowd, alone):
            self.begin(connection)
        self.assertEqual([crowd[0], alone, crowd[1], alone, crowd[2]], self.iteration())
        self.assertEqual([alone, *crowd[3:7]], self.iteration())

    def test_ended_connection_loses_its_turn(self) -> None:
        """
        A connection that ends while it waits has no turn, and no reference to it is left.
        """
        self.begin(Connection(self, "spent", 5))
        gone, stays = Connection(self, "a", 1), Connection(self, "b", 1)
        self.begin(gone)
        self.begin(stays)
        self.round_robin.remove(gone)
        self.round_robin.remove(gone)
        self.assertEqual(1, len(self.round_robin))
        self.assertEqual([stays], self.iteration())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_exception_affects_its_connection_only(self) -> None:
        """
        Others have their turns.
        """
        self.begin(Connection(self, "spent", 5))
        broken, fine = Connection(self, "a", 9), Connection(self, "b", 1)
        broken.error = ZeroDivisionError()
        self.begin(broken)
        self.begin(fine)
        self.assertEqual([broken, fine], self.iteration())
        self.assertTrue(broken.is_aborted)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(0, len(self.round_robin))
