"""
Times and numbers of isolated connections: how long each step may take, and what follows when it takes longer.

The values are written out here, so that a test fails when a constant changes.
"""

from collections.abc import Callable

from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout
from dotproxy.policy.retry import Isolation
from dotproxy.testing.server import HANG_UP
from dotproxy.upstream import isolated_connections
from tests.upstream.scenes import ZONE
from tests.upstream.test_isolated_connections import IsolationScene, hangs_up_at_bad
from tests.upstream.test_upstream import IS_PROBE

REFUSED = Refused(111, "Connection refused")


def never_replies(query: bytes) -> None:
    """
    The answer of a server that replies to nothing.
    """


def is_probe(query: bytes) -> bool:
    """
    Return whether a query is a health probe.
    """
    return query[2:] == IS_PROBE


class IsolationCase(SynchronousTestCase):
    """
    An upstream, and its server, which replies to every query.
    """

    def setUp(self) -> None:
        """
        No connection has been made.
        """
        self.scene = IsolationScene()
        self.server, self.network, self.told = self.scene.server, self.scene.network, self.scene.told
        self.server.answer = ZONE

    def set_answer(self, answer: Callable[[bytes], bytes | None]) -> None:
        """
        Change what the server replies from now on.
        """
        self.server.answer = answer

    def advance_until_dialled(self, dials: int, *, most: float = 2.0) -> float:
        """
        Return after how many seconds, in steps of 5 ms, the upstream was dialled so often.

        Meanwhile it replies to queries over the shared connection: it is not down.
        """
        began = self.scene.clock.seconds()
        while self.scene.dials < dials and self.scene.clock.seconds() - began < most:
            self.scene.ask("shared")
            self.network.advance(0.005)
        return self.scene.clock.seconds() - began


class NumberTests(SynchronousTestCase):
    """
    The numbers that the documentation names.
    """

    def test_numbers_of_connections(self) -> None:
        """
        Up to 32 connections; background queries have two at once and 20 a second, and 200 groups of them may wait.
        """
        self.assertEqual(
            (32, 2, 20.0, 200),
            (
                isolated_connections.MAX_CONNECTIONS,
                isolated_connections.MAX_BACKGROUND,
                isolated_connections.BACKGROUND_RATE,
                isolated_connections.MAX_WAITING,
            ),
        )


class TimeTests(IsolationCase):
    """
    How long a connection may take.
    """

    def test_group_without_reply_fails_after_four_seconds(self) -> None:
        """
        The query fails with a timeout, which says how long the connection was silent.
        """
        self.set_answer(never_replies)
        self.scene.ask_apart("a")
        self.network.advance(3.95)
        self.assertEqual([], self.told.failures)
        self.network.advance(0.1)
        ((token, error, is_final),) = self.told.failures
        self.assertEqual(("a", False), (token, is_final))
        self.assertIsInstance(error, Timeout)
        self.assertEqual("the upstream: read: connected, but silent for 4.0 s", str(error))
        self.assertEqual([], self.server.connections)

    def test_probe_without_reply_is_given_up_after_one_second(self) -> None:
        """
        The query that waits for the probe has not failed; it is sent over the next connection.
        """
        self.scene.connect("warm")
        self.set_answer(lambda query: None if is_probe(query) else ZONE(query))
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.network.advance(0.95)
        self.assertEqual(2, len(self.server.connections))
        self.scene.ask("shared")  # the upstream replies to other queries, and is not down
        self.network.settle()
        self.network.advance(0.1)
        self.assertEqual((1, []), (len(self.server.connections), self.told.failures))
        self.set_answer(ZONE)
        self.network.advance(0.1)
        self.network.accept_all(self.server)
        self.network.advance(0.03)
        self.assertEqual(["warm", "shared", "a"], self.told.answered_tokens)

    def test_probe_in_time_is_no_reason_to_close(self) -> None:
        """
        The timer of the probe ends with its reply: the group has four seconds of its own.
        """
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.set_answer(never_replies)
        self.network.advance(0.02)
        self.network.advance(3.9)
        self.assertEqual((1, []), (len(self.server.connections), self.told.failures))
        self.network.advance(0.2)
        self.assertEqual((0, ["a"]), (len(self.server.connections), self.told.failed_tokens))

    def test_unused_connection_is_closed_after_one_second(self) -> None:
        """
        A connection that has replied waits for a second for the next group.
        """
        self.scene.ask_apart("a")
        self.network.advance(0.95)
        self.assertEqual(1, len(self.server.connections))
        self.network.advance(0.1)
        self.assertEqual([], self.server.connections)

    def test_nothing_is_sent_within_20_ms_of_the_first_reply(self) -> None:
        """
        Some servers close the connection after one reply: the query follows the probe 20 ms after that.
        """
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.network.advance(0.015)
        self.assertEqual([True], [is_probe(query) for query in self.server.queries])
        self.network.advance(0.01)
        self.assertEqual([True, False], [is_probe(query) for query in self.server.queries])

    def test_pause_is_for_the_first_reply_only(self) -> None:
        """
        A connection that has replied twice takes the next group at once.
        """
        for token in ("a", "b"):
            self.scene.ask_apart(token)
            self.network.advance(0.025)
        for token in ("c", "d"):
            self.scene.ask_apart(token)
            self.network.settle()
        self.assertEqual((["a", "b", "c", "d"], 1), (self.told.answered_tokens, self.scene.dials))


class PauseTests(IsolationCase):
    """
    Connections that end before they have replied: the next dial waits.
    """

    def test_pause_doubles_from_50_ms_to_one_second(self) -> None:
        """
        Each connection that ends without a reply doubles the pause before the next; the last is a second.
        """
        self.scene.connect("warm")
        pauses = []
        self.set_answer(lambda query: HANG_UP if is_probe(query) else ZONE(query))
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        for dials in range(3, 10):
            pauses.append(round(self.advance_until_dialled(dials), 3))
            self.network.accept_all(self.server)
        for expected, pause in zip([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0], pauses, strict=True):
            self.assertLess(abs(pause - expected), 0.01, pauses)
        self.assertEqual([], self.told.failures)

    def test_reply_ends_the_pauses(self) -> None:
        """
        After a reply over an isolated connection the next pause is the shortest one again.
        """
        self.scene.connect("warm")
        self.set_answer(lambda query: HANG_UP if is_probe(query) else ZONE(query))
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        for dials in (3, 4):
            self.advance_until_dialled(dials)
            if dials == 4:
                self.set_answer(ZONE)
            self.network.accept_all(self.server)
        self.network.advance(0.03)
        self.assertEqual("a", self.told.answered_tokens[-1])
        self.network.advance(1.1)
        self.set_answer(lambda query: HANG_UP if is_probe(query) else ZONE(query))
        self.scene.ask("shared")
        self.network.settle()
        self.scene.ask_apart("b", isolation=Isolation.LAST)
        self.assertLess(self.advance_until_dialled(self.scene.dials + 1), 0.06)


class RefusalTests(IsolationCase):
    """
    Servers that accept no further connection.
    """

    def test_no_other_dial_for_five_seconds(self) -> None:
        """
        Meanwhile such queries go over the shared connection, but for background queries, which fail.
        """
        self.scene.connect("warm")
        self.scene.ask_apart("a", accepted=False)
        self.network.refuse(REFUSED)
        self.network.advance(4.9)
        self.scene.ask_apart("b")
        self.network.settle()
        self.assertEqual((2, ["warm", "b"]), (self.scene.dials, self.told.answered_tokens))
        self.scene.ask_apart("c", is_background=True)
        self.assertEqual([("a", False), ("c", True)], [(token, final) for token, _, final in self.told.failures])
        self.network.advance(0.2)
        self.scene.ask_apart("d")
        self.assertEqual((3, ["warm", "b", "d"]), (self.scene.dials, self.told.answered_tokens))

    def test_limit_of_connections_is_forgotten_after_five_seconds(self) -> None:
        """
        A server that took one isolated connection and refused the next is dialled for one at a time, for 5 s.
        """
        self.set_answer(never_replies)
        self.scene.connect("shared")
        self.scene.ask_apart("a", "b", accepted=False)
        self.network.accept(self.server)
        self.network.refuse(REFUSED)
        dials = self.scene.dials
        self.network.advance(3.0)
        self.scene.ask_apart("c", accepted=False)
        self.assertEqual(dials, self.scene.dials)
        self.network.advance(1.1)  # the group over the one connection has failed: one may be dialled
        self.assertEqual(dials + 1, self.scene.dials)
        self.network.accept(self.server)
        self.network.advance(1.0)
        self.scene.ask_apart("d", "e", accepted=False)
        self.assertEqual(dials + 3 + 1, self.scene.dials)


class LostTests(IsolationCase):
    """
    What is concluded from the end of a connection.
    """

    def limit(self) -> int | None:
        """
        The number of queries a connection takes, as far as was learned.
        """
        return self.scene.upstream.per_connection_limit.limit

    def close_after_reply(self, query: bytes) -> bytes | None:
        """
        The answer of a server that closes a connection after its first reply.
        """
        self.scene.clock.callLater(0, self.server.close_connections)
        return ZONE(query)

    def test_closes_after_a_reply_make_a_limit(self) -> None:
        """
        Three connections that the server closed after one reply each, with nothing outstanding, make a limit of one.
        """
        self.set_answer(self.close_after_reply)
        for token, limit in (("a", None), ("b", None), ("c", 1)):
            self.scene.ask_apart(token)
            self.assertEqual(limit, self.limit())
        self.assertEqual((["a", "b", "c"], 3), (self.told.answered_tokens, self.scene.dials))

    def test_our_own_closes_make_no_limit(self) -> None:
        """
        A connection that we closed, as it was idle, says nothing of the server.
        """
        for token in ("a", "b", "c", "d"):
            self.scene.ask_apart(token)
            self.network.advance(1.1)
        self.assertEqual((None, 4), (self.limit(), self.scene.dials))

    def test_connections_that_end_at_a_lone_query_make_no_limit(self) -> None:
        """
        A connection that ended with its only query outstanding was ended by the query.
        """
        self.set_answer(hangs_up_at_bad)
        for number in range(4):
            for token in ("good", f"bad{number}"):
                self.scene.ask_apart(token)
                self.network.advance(0.03)
        self.assertEqual((None, 4), (self.limit(), self.scene.dials))
        self.assertEqual(4, len(self.told.failures))

    def test_query_waiting_for_its_probe_outlives_another_network(self) -> None:
        """
        It has not been sent: it waits for a connection over the new network, and does not fail.
        """
        self.scene.connect("warm")
        self.set_answer(never_replies)
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.scene.upstream.network_moved()
        self.network.settle()
        self.assertEqual(([], 1), (self.told.failures, self.scene.upstream.outstanding))
        self.set_answer(ZONE)
        for _ in range(3):
            self.network.accept_all(self.server)
            self.network.advance(0.1)
        self.assertEqual(["warm", "a"], self.told.answered_tokens)

    def test_probe_and_waiting_query_have_a_connection_each(self) -> None:
        """
        A check sends a probe although nothing waits for it, once, and the query that waited before it goes alone.
        """
        self.scene.ask_apart("a", accepted=False)
        for _ in range(3):
            self.scene.upstream._isolated.check()
        self.network.accept_all(self.server)
        self.assertEqual([False, True], sorted(is_probe(query) for query in self.server.queries))
        self.assertEqual((["a"], 2), (self.told.answered_tokens, self.scene.dials))

    def test_every_query_is_counted_until_its_reply(self) -> None:
        """
        Queries that wait for a dial, for a probe, or for a reply are outstanding.
        """
        self.set_answer(never_replies)
        counts = []
        self.scene.ask_apart("a", "b", accepted=False)
        counts.append(self.scene.upstream.outstanding)
        self.network.accept_all(self.server)
        counts.append(self.scene.upstream.outstanding)
        self.scene.ask_apart("c", isolation=Isolation.LAST)
        counts.append(self.scene.upstream.outstanding)
        self.server.connections[0].send(ZONE(self.server.queries[0]) or b"")
        self.network.settle()
        counts.append(self.scene.upstream.outstanding)
        self.assertEqual([2, 2, 3, 2], counts)
