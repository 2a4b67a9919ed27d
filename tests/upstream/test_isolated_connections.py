"""
Connections of their own for queries that may end them.
"""

from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionGone, Timeout, Unreachable
from dotproxy.policy.health import Tier
from dotproxy.policy.retry import Isolation
from dotproxy.testing.server import HANG_UP
from dotproxy.upstream.isolated_connections import (
    BACKGROUND_RATE,
    IDLE_TIMEOUT,
    MAX_BACKGROUND,
    MAX_CONNECTIONS,
    MAX_WAITING,
    SETTLING,
    UNAVAILABLE_FOR,
)
from dotproxy.upstream.query_groups import MAX_GROUPS
from dotproxy.wire.message import HEADER_SIZE
from tests.upstream.scenes import ZONE, Scene, make_question
from tests.upstream.test_upstream import IS_PROBE, names

REFUSED = Refused(111, "Connection refused")


def hangs_up_at_bad(query: bytes) -> bytes | None:
    """
    The answer of a server that closes the connection at names that begin with "bad".
    """
    return HANG_UP if query[HEADER_SIZE + 1 :].startswith(b"bad") else ZONE(query)


class IsolationScene(Scene):
    """
    An upstream that hangs up at bad names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server.answer = hangs_up_at_bad

    def ask_apart(
        self, *tokens: str, isolation: Isolation = Isolation.LOST, is_background: bool = False, accepted: bool = True
    ) -> None:
        """
        Ask apart, in one batch; whose token begins with "bad" has a bad name.
        """
        questions = [
            make_question(token, f"{token}.test." if token.startswith("bad") else "www.test.") for token in tokens
        ]
        self.upstream.send_isolated(questions, isolation, is_background=is_background)
        if accepted:
            self.network.accept_all(self.server)


class IsolationTests(SynchronousTestCase):
    """
    Which query goes on which connection.
    """

    def setUp(self) -> None:
        """
        An upstream nobody has asked.
        """
        self.scene = IsolationScene()
        self.network, self.server, self.told = self.scene.network, self.scene.server, self.scene.told

    def test_few_queries_have_a_connection_each(self) -> None:
        """
        Each of a few queries has a connection of its own, so that a bad one ends no other's.
        """
        self.scene.ask_apart("a", "bad", "c")
        self.assertEqual((["a", "c"], ["bad"]), (sorted(self.told.answered_tokens), self.told.failed_tokens))
        _, error, is_final = self.told.failures[0]
        assert isinstance(error, ConnectionGone)
        self.assertEqual((True, False, "the upstream"), (error.was_alone, is_final, error.upstream))
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)

    def test_many_queries_share_a_few_connections(self) -> None:
        """
        A bad query ends the connection of its group only, and is not identified as the cause.
        """
        tokens = [f"t{n}" for n in range(40)]
        tokens[7] = "bad"
        self.scene.ask_apart(*tokens)
        self.assertLessEqual(self.scene.dials, MAX_GROUPS)
        group = tokens[5:10]
        self.assertIn("bad", self.told.failed_tokens)
        self.assertTrue(set(self.told.failed_tokens) <= set(group))
        self.assertEqual(40, len(self.told.failures) + len(self.told.answers))
        self.assertFalse(any(error.was_alone for _, error, _ in self.told.failures))  # type: ignore[attr-defined]

    def test_connection_that_replied_is_reused_then_closed(self) -> None:
        """
        Successive queries need one connection, which is closed soon after the last.
        """
        for token in ("a", "b", "c"):
            self.scene.ask_apart(token)
            self.network.advance(SETTLING if token == "a" else 0)
        self.assertEqual((["a", "b", "c"], 1), (self.told.answered_tokens, self.scene.dials))
        self.network.advance(IDLE_TIMEOUT + 0.1)
        self.assertEqual(([], 0), (self.server.connections, self.scene.upstream.outstanding))
        self.assertEqual([], self.scene.clock.getDelayedCalls())

    def test_stop_fails_waiting_queries_and_leaves_no_timer(self) -> None:
        """
        Nothing is left in the reactor, and waiting queries have failed.
        """
        self.server.answer = lambda query: None
        self.scene.ask_apart("a", "b")
        self.scene.ask_apart("c", accepted=False)
        stopped = self.scene.upstream.stopService()
        self.network.settle()
        self.successResultOf(stopped)
        self.assertEqual(["a", "b", "c"], sorted(self.told.failed_tokens))
        (waiting,) = [error for token, error, _ in self.told.failures if token == "c"]
        self.assertEqual(("connect", "stopped", "the upstream"), (waiting.phase, waiting.reason, waiting.upstream))
        self.assertEqual([], self.scene.clock.getDelayedCalls())

    def test_last_attempt_goes_over_a_connection_that_replied(self) -> None:
        """
        It follows a probe that was answered, or goes over a connection that has replied to others.
        """
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.assertEqual([True], [query == IS_PROBE for query in names(self.server.queries)])
        self.network.advance(SETTLING)
        self.assertEqual([True, False], [query == IS_PROBE for query in names(self.server.queries)])
        self.scene.ask_apart("b", isolation=Isolation.LAST)
        self.network.advance(SETTLING)
        self.assertEqual((["a", "b"], 3), (self.told.answered_tokens, len(self.server.queries)))

    def test_connection_that_ends_after_the_probe_reply_sends_the_query_on_the_next(self) -> None:
        """
        If the connection ends with the answer to the probe there is nothing to prove: the query goes on the next.
        """

        def closing(query: bytes) -> bytes | None:
            self.scene.clock.callLater(0.01, self.server.close_connections)
            return ZONE(query)

        self.server.answer = closing
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.network.advance(0.01)
        self.network.accept_all(self.server)
        self.assertEqual((["a"], []), (self.told.answered_tokens, self.told.failures))

    def test_no_probe_on_connections_limited_to_one_reply(self) -> None:
        """
        Where a connection is known to carry one reply, there is no probe.
        """

        def closing(query: bytes) -> bytes | None:
            self.scene.clock.callLater(0, self.server.close_connections)
            return ZONE(query)

        self.server.answer = closing
        for _ in range(3):
            self.scene.connect("w")
        self.told.answers.clear()
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.network.accept_all(self.server)
        self.assertEqual((["a"], []), (self.told.answered_tokens, self.told.failures))

    def test_last_attempt_is_repeated_if_the_connection_ends_at_the_probe(self) -> None:
        """
        It is repeated on another connection.
        """
        self.scene.connect("warm")
        answers = iter([HANG_UP, HANG_UP])
        self.server.answer = lambda query: next(answers, ZONE(query))
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        for _ in range(30):
            self.network.advance(0.1)
            self.network.accept_all(self.server)
        self.assertEqual((["warm", "a"], []), (self.told.answered_tokens, self.told.failures))
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)

    def test_number_of_isolated_connections_is_bounded(self) -> None:
        """
        However many queries wait, the number of connections is bounded; all are answered in the end.
        """
        self.server.answer = lambda query: None
        tokens = [f"t{n}" for n in range(3 * MAX_CONNECTIONS)]
        self.scene.ask_apart(*tokens, isolation=Isolation.KNOWN)
        self.assertEqual(MAX_CONNECTIONS, self.scene.dials)
        self.server.answer = ZONE
        for connection in tuple(self.server.connections):
            connection.send(ZONE(connection.queries[-1]) or b"")
        for _ in range(4):
            self.network.advance(SETTLING)
        self.assertEqual(sorted(tokens), sorted(self.told.answered_tokens))

    def test_abandoned_query_is_not_sent(self) -> None:
        """
        A query without a waiting client is not sent.
        """
        self.scene.ask_apart("a", "b", accepted=False)
        self.told.unwanted.add("a")
        self.network.accept_all(self.server)
        self.assertEqual((["b"], 1), (self.told.answered_tokens, len(self.server.queries)))

    def test_unanswered_query_fails_after_four_seconds_without_blame(self) -> None:
        """
        It fails after four seconds, which does not count against the upstream or the question.
        """
        self.server.answer = lambda query: None
        self.scene.ask_apart("a")
        self.network.advance(4.1)
        ((token, error, _),) = self.told.failures
        self.assertEqual(("a", Timeout), (token, type(error)))
        self.assertEqual(float("-inf"), self.scene.upstream.quarantine.until)


class BackgroundTests(SynchronousTestCase):
    """
    What is not ordinary.
    """

    def setUp(self) -> None:
        """
        An upstream nobody has asked.
        """
        self.scene = IsolationScene()
        self.network, self.server, self.told = self.scene.network, self.scene.server, self.scene.told

    def test_quarantined_question_has_one_more_attempt(self) -> None:
        """
        A question that is known to end connections gets one more attempt, and no second.
        """
        self.scene.ask_apart("bad", isolation=Isolation.KNOWN, is_background=True)
        self.assertEqual([("bad", True)], [(token, is_final) for token, _, is_final in self.told.failures])

    def test_ordinary_queries_come_before_quarantined_ones(self) -> None:
        """
        With no connection free, ordinary queries are sent before quarantined ones.
        """
        self.server.answer = lambda query: None
        self.scene.ask_apart(*[f"b{n}" for n in range(20)], isolation=Isolation.KNOWN, is_background=True)
        self.assertEqual(MAX_BACKGROUND, len(self.server.queries))
        self.scene.ask_apart("a")
        self.server.connections[-1].send(ZONE(self.server.queries[-1]) or b"")
        self.network.settle()
        self.assertEqual(["a"], self.told.answered_tokens)

    def test_flood_of_quarantined_questions_is_bounded_in_connections(self) -> None:
        """
        They get a bounded number of connections a second; what cannot wait fails.
        """
        seconds = 5
        for number in range(100 * seconds):
            self.scene.ask_apart(f"bad{number}", isolation=Isolation.KNOWN, is_background=True)
            self.network.advance(0.01)
            self.network.accept_all(self.server)
        self.assertLessEqual(self.scene.dials, BACKGROUND_RATE * (seconds + 1) + 1)
        self.assertGreaterEqual(self.scene.dials, BACKGROUND_RATE * (seconds - 1))
        self.assertGreaterEqual(len(self.told.failures), 100 * seconds - MAX_WAITING - MAX_BACKGROUND)
        self.assertTrue(all(is_final for _, _, is_final in self.told.failures))

    def test_unusual_queries_share_connections_by_sixteen(self) -> None:
        """
        Sixteen share one connection; none of those lost together is identified as the cause.
        """
        tokens = [f"u{n}" for n in range(20)]
        self.scene.ask_apart(*tokens, "bad", isolation=Isolation.UNUSUAL, is_background=True)
        self.assertEqual(2, self.scene.dials)
        self.assertEqual(21, len(self.told.answers) + len(self.told.failures))
        self.assertFalse(any(error.was_alone for _, error, _ in self.told.failures))  # type: ignore[attr-defined]
        self.assertLessEqual({f"u{n}" for n in range(16)}, set(self.told.answered_tokens))

    def test_unusual_query_is_not_quarantined(self) -> None:
        """
        A question of an unusual kind is not remembered as one that ends connections.
        """
        for isolation in (Isolation.UNUSUAL, Isolation.LOST, Isolation.LAST):
            for number in range(5):
                self.scene.ask_apart(f"bad{number}", isolation=isolation, is_background=True)
                self.network.advance(0.2)
        self.assertEqual(15, len(self.told.failures))
        self.assertEqual(float("-inf"), self.scene.upstream.quarantine.until)


class OutageTests(SynchronousTestCase):
    """
    No connections for them.
    """

    def setUp(self) -> None:
        """
        An upstream nobody has asked.
        """
        self.scene = IsolationScene()
        self.network, self.server, self.told = self.scene.network, self.scene.server, self.scene.told

    def test_failed_dial_marks_the_upstream_down_and_queries_wait(self) -> None:
        """
        Nothing is sent; the upstream is down, and queries wait for the next dial like all others.
        """
        self.scene.ask_apart("a", accepted=False)
        self.network.refuse(REFUSED)
        self.assertEqual([("a", Unreachable)], [(token, type(error)) for token, error, _ in self.told.failures])
        self.assertEqual(Tier.DOWN, self.scene.upstream.tier)
        self.scene.ask_apart("b", accepted=False)
        self.assertEqual(1, self.scene.dials)
        self.network.advance(0.2)
        self.network.accept_all(self.server)
        self.assertEqual((["b"], Tier.GOOD), (self.told.answered_tokens, self.scene.upstream.tier))

    def test_refused_second_connection_falls_back_to_the_shared_one(self) -> None:
        """
        Beside a working connection the upstream is not down, and for a while isolated queries go over the shared one.
        """
        self.scene.connect("a")
        self.scene.ask_apart("b", accepted=False)
        self.network.refuse(REFUSED)
        self.assertEqual(["b"], self.told.failed_tokens)
        self.assertEqual((Tier.GOOD, []), (self.scene.upstream.tier, self.scene.heard.states()))
        self.scene.ask_apart("b", accepted=False)
        self.network.settle()
        self.assertEqual((["a", "b"], 2), (self.told.answered_tokens, self.scene.dials))
        self.network.advance(UNAVAILABLE_FOR)
        self.scene.ask_apart("c")
        self.assertEqual((["a", "b", "c"], 3), (self.told.answered_tokens, self.scene.dials))

    def test_queries_without_a_connection_use_the_open_ones(self) -> None:
        """
        Queries wait for the open connections, and are sent over them.
        """
        self.server.answer = lambda query: None
        self.scene.connect("shared")
        self.scene.ask_apart("a", "b", "c", accepted=False)
        self.network.accept(self.server)
        self.network.refuse(REFUSED)
        self.network.refuse(REFUSED)
        self.assertEqual([], self.told.failures)
        self.server.answer = ZONE
        connection = self.server.connections[-1]
        connection.send(ZONE(connection.queries[-1]) or b"")
        for _ in range(3):
            self.network.advance(SETTLING)
        self.assertEqual((["a", "b", "c"], 4), (self.told.answered_tokens, self.scene.dials))

    def test_queries_are_sent_after_the_pause(self) -> None:
        """
        Queries that wait while connections end unanswered are sent when the pause is over, whatever else was due
        before.
        """
        self.scene.connect("warm")
        answers = iter([HANG_UP] * 3)
        self.server.answer = lambda query: next(answers, ZONE(query))
        self.scene.ask_apart("a", isolation=Isolation.LAST)
        self.scene.ask_apart("u", isolation=Isolation.UNUSUAL, is_background=True)
        for _ in range(40):
            self.network.advance(0.05)
            self.network.accept_all(self.server)
        self.assertIn("a", self.told.answered_tokens)

    def test_network_change_moves_waiting_queries_to_new_connections(self) -> None:
        """
        Connections over the old network are dropped; waiting queries are sent over the new one.
        """
        self.server.answer = lambda query: None
        self.scene.ask_apart("a")
        self.scene.upstream.network_moved()
        self.network.settle()
        self.assertEqual(["a"], self.told.failed_tokens)
        self.assertEqual([], self.server.connections)

    def test_connection_dropped_by_a_network_change_is_not_reused(self) -> None:
        """
        A connection that has just answered and is given up serves nothing any more.
        """
        self.scene.ask_apart("a")
        self.scene.upstream.network_moved()
        self.scene.clock.advance(SETTLING)  # before the connection has ended
        self.scene.ask_apart("b")
        self.assertEqual((["a", "b"], []), (self.told.answered_tokens, self.told.failures))

    def test_stop_fails_queries_and_closes_connections(self) -> None:
        """
        Queries fail, connections are closed, and nothing is left.
        """
        self.server.answer = lambda query: None
        self.scene.ask_apart("a", "b")
        self.scene.ask_apart("proving", isolation=Isolation.LAST)
        self.scene.ask_apart("c", accepted=False)
        stopped = self.scene.upstream.stopService()
        self.network.settle()
        self.successResultOf(stopped)
        self.assertEqual(["a", "b", "c", "proving"], sorted(self.told.failed_tokens))
        self.assertEqual([], self.scene.clock.getDelayedCalls())
