"""
One upstream: when it is dialled, what becomes of questions, and what is told of it.
"""

from typing import Any

from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import BadReply, ConnectionGone, Unreachable
from dotproxy.policy.health import RECENT_OUTAGE, Tier
from dotproxy.testing.server import HANG_UP
from dotproxy.upstream.availability import LEARNED_LATER
from dotproxy.upstream.health_probe import PROBE_QUERY
from dotproxy.wire.framing import frame
from tests.upstream.scenes import NAME, STRANGER, ZONE, Scene

REFUSED = Refused(111, "Connection refused")
IS_PROBE = PROBE_QUERY[1][2:]


def names(queries: list[bytes]) -> list[bytes]:
    """
    Of each query everything but the ID.
    """
    return [query[2:] for query in queries]


class ConnectingTests(SynchronousTestCase):
    """
    On demand, once, and again.
    """

    def setUp(self) -> None:
        """
        An upstream nobody has asked.
        """
        self.scene = Scene()
        self.network, self.server, self.told = self.scene.network, self.scene.server, self.scene.told

    def test_first_query_starts_the_first_dial(self) -> None:
        """
        Without a query there is no connection.
        """
        self.network.advance(3600)
        self.assertEqual(0, self.scene.dials)
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)

    def test_queries_wait_for_one_dial(self) -> None:
        """
        Queries during a dial go out on that one connection, unless they were abandoned.
        """
        self.scene.ask("a", "b")
        self.scene.ask("c", "d")
        self.told.unwanted.add("b")
        self.network.accept(self.server)
        self.assertEqual(["a", "c", "d"], self.told.answered_tokens)
        self.assertEqual((1, 1), (self.scene.dials, self.server.accepted))

    def test_connection_is_reused(self) -> None:
        """
        A second query needs no second connection, and goes out at once.
        """
        self.scene.connect("a")
        self.scene.ask("b", "c")
        self.network.settle()
        self.assertEqual((["a", "b", "c"], 1), (self.told.answered_tokens, self.scene.dials))

    def test_failed_dials_are_counted_by_phase(self) -> None:
        """
        By the phase in which they fail.
        """
        self.scene.ask("a")
        self.network.refuse(REFUSED)
        self.network.advance(0.2)
        self.network.refuse(REFUSED)
        self.assertEqual({"connect": 2}, dict(self.scene.upstream.counters.connect_failures))

    def test_full_and_resumed_handshakes_are_counted(self) -> None:
        """
        A full one first; the next resumes its session.
        """
        counters = self.scene.upstream.counters
        self.scene.connect("a")
        self.assertEqual((1, 0), (sum(counters.full_handshakes.counts), sum(counters.resumed_handshakes.counts)))
        self.server.close_connections()
        self.network.settle()
        self.scene.connect("b")
        self.assertEqual((1, 1), (sum(counters.full_handshakes.counts), sum(counters.resumed_handshakes.counts)))
        self.assertEqual(2, counters.connections_opened)

    def test_replies_are_matched_in_any_order(self) -> None:
        """
        The upstream may reply in any order (RFC 7766 §7).
        """
        self.server.answer = lambda query: None
        self.scene.connect("a", "b", "c")
        for query in reversed(self.server.queries):
            self.server.connections[0].send(ZONE(query) or b"")
        self.network.settle()
        self.assertEqual(["c", "b", "a"], self.told.answered_tokens)

    def test_idle_close_by_the_server_is_no_failure(self) -> None:
        """
        A clean close without queries in flight is no failure; the next query dials at once.
        """
        self.scene.connect("a")
        self.server.close_connections()
        self.network.settle()
        self.assertEqual(([], []), (self.scene.heard.states(), self.told.failures))
        self.assertIn(("closed", "the upstream closed the connection", 0), self.scene.heard.events)
        self.network.advance(60)
        self.assertEqual(1, self.scene.dials)
        self.scene.connect("b")
        self.assertEqual((["a", "b"], 2), (self.told.answered_tokens, self.scene.dials))

    def test_idle_connection_is_closed(self) -> None:
        """
        After the idle timeout, counted from the last use, it is closed with close_notify.
        """
        self.scene.connect("a")
        self.network.advance(20)
        self.scene.ask("b")
        self.network.settle()
        self.network.advance(29)
        self.assertEqual(1, len(self.server.connections))
        self.network.advance(2)
        self.assertEqual(([], []), (self.server.connections, self.scene.heard.states()))
        self.assertEqual([], self.scene.clock.getDelayedCalls())

    def test_connection_with_queries_in_flight_is_not_idle(self) -> None:
        """
        While something is outstanding a connection is not closed for idleness.
        """
        self.server.answer = lambda query: None
        self.scene.connect("a")
        self.network.advance(31)
        self.assertEqual(1, len(self.server.connections))

    def test_query_during_a_close_starts_a_dial(self) -> None:
        """
        It does not wait for the close.
        """
        self.scene.connect("a")
        self.network.reactor.advance(31)  # without settling: the close is under way
        self.scene.ask("b")
        self.assertEqual(2, self.scene.dials)
        self.network.settle()
        self.network.accept(self.server)
        self.assertEqual(["a", "b"], self.told.answered_tokens)


class FailureTests(SynchronousTestCase):
    """
    Dials that fail, connections that break.
    """

    def setUp(self) -> None:
        """
        An upstream nobody has asked.
        """
        self.scene = Scene()
        self.network, self.server, self.told = self.scene.network, self.scene.server, self.scene.told

    def test_failed_dial_fails_waiting_queries_once(self) -> None:
        """
        Each waiting question is given back once, with upstream, phase and reason; it may be asked again, unless the
        upstream has been down for a while.
        """
        self.scene.ask("a", "b")
        self.network.refuse(REFUSED)
        self.assertEqual(["a", "b"], self.told.failed_tokens)
        _, error, is_final = self.told.failures[0]
        self.assertEqual("the upstream: connect: connection refused", str(error))
        self.assertFalse(is_final)
        for _ in range(4):
            self.network.advance(RECENT_OUTAGE)
            self.network.refuse(REFUSED)
        self.scene.ask("c")
        self.network.advance(1)
        self.network.refuse(REFUSED)
        self.assertEqual(("c", True), (self.told.failures[-1][0], self.told.failures[-1][2]))
        self.assertEqual(Tier.DOWN, self.scene.upstream.tier)

    def test_down_and_up_are_reported_once_each(self) -> None:
        """
        One event for each change of state, however often it failed.
        """
        self.scene.ask("a")
        for _ in range(5):
            self.network.refuse(REFUSED)
            self.network.advance(40)
        self.network.accept(self.server)
        self.assertEqual(["down", "up"], self.scene.heard.states())
        self.assertIn(("down", "connect", "connection refused"), self.scene.heard.events)
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)

    def test_redial_backs_off_to_half_a_minute(self) -> None:
        """
        Without queries, the time between dials grows to half a minute and no further (RFC 7858 §3.1).
        """
        self.scene.ask("a")
        gaps = []
        for _ in range(12):
            self.network.refuse(REFUSED)
            (redial,) = self.scene.clock.getDelayedCalls()
            gaps.append(round(redial.getTime() - self.scene.clock.seconds(), 6))
            self.network.advance(gaps[-1] + 0.001)
        self.assertEqual([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0], gaps)

    def test_redial_takes_a_second_at_most_with_pending_queries(self) -> None:
        """
        A query brings the next dial forward: a recovered upstream is found within a second.
        """
        self.scene.ask("a")
        for _ in range(9):
            self.network.refuse(REFUSED)
            self.network.advance(31)
        self.network.refuse(REFUSED)
        dials = self.scene.dials
        self.scene.ask("b")
        self.network.advance(0.9)
        self.assertEqual(dials, self.scene.dials)
        self.network.advance(0.2)
        self.assertEqual(dials + 1, self.scene.dials)
        self.network.accept(self.server)
        self.assertIn("b", self.told.answered_tokens)

    def test_lost_connection_gives_its_queries_back_once(self) -> None:
        """
        Each query in flight is given back once, and another connection is dialled (RFC 7766 §6.2.4).
        """
        answering = self.server.answer
        self.scene.connect("a")
        self.server.answer = lambda query: None
        self.scene.ask("b", "c")
        self.network.settle()
        self.server.abort_connections()
        self.network.settle()
        self.assertEqual(["b", "c"], self.told.failed_tokens)
        _, error, is_final = self.told.failures[0]
        assert isinstance(error, ConnectionGone)
        self.assertEqual((False, False), (error.was_alone, is_final))
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)
        self.server.answer = answering
        self.scene.connect("b", "c")
        self.assertEqual(["a", "b", "c"], self.told.answered_tokens)

    def test_connection_lost_without_a_reply_does_not_mark_the_upstream_down(self) -> None:
        """
        The query may be the cause.
        """
        self.server.answer = lambda query: None
        self.scene.connect("a")
        self.server.close_connections()
        self.network.settle()
        _, error, is_final = self.told.failures[0]
        assert isinstance(error, ConnectionGone)
        self.assertEqual((False, False), (error.was_alone, is_final))
        self.assertEqual((Tier.GOOD, 2), (self.scene.upstream.tier, self.scene.dials))

    def test_partial_reply_is_dropped_when_the_connection_ends(self) -> None:
        """
        With close_notify or without (RFC 8446 §6.1).
        """
        for end in ("close_connections", "abort_connections"):
            self.server.answer = lambda query: None
            self.scene.connect("a")
            whole = ZONE(self.server.queries[-1])
            assert whole is not None
            self.server.connections[0].transport.write(frame(whole)[:-1])
            self.network.settle()
            getattr(self.server, end)()
            self.network.settle()
            self.assertEqual((["a"], []), (self.told.failed_tokens, self.told.answers))
            self.setUp()

    def test_three_connections_without_a_reply_are_followed_by_a_probe(self) -> None:
        """
        After three in a row that answered nothing it is asked something easy: if that ends the connection, too, it is
        down, until it answers.
        """
        answering = self.server.answer
        self.server.answer = lambda query: HANG_UP
        for expected in ([], [], ["down"]):
            self.scene.ask("a")
            self.network.settle()
            self.network.accept_all(self.server)
            self.assertEqual(expected, self.scene.heard.states())
        self.assertIn(IS_PROBE, names(self.server.queries))
        self.server.answer = answering
        self.network.advance(1)
        self.network.accept_all(self.server)
        self.assertEqual(["down", "up"], self.scene.heard.states())

    def test_upstream_that_replies_to_others_is_not_down(self) -> None:
        """
        An upstream that ends any number of connections at some queries, and replies to others, is not down.
        """
        self.server.answer = lambda query: ZONE(query) if query[2:] == IS_PROBE else HANG_UP
        for _ in range(20):
            self.scene.ask("a")
            self.network.settle()
            self.network.accept_all(self.server)
            self.network.advance(0.2)
        self.assertEqual(([], Tier.GOOD), (self.scene.heard.states(), self.scene.upstream.tier))
        self.assertEqual(20, len(self.told.failures))

    def test_lasting_failure_fails_queries_at_once(self) -> None:
        """
        A query to an upstream that is not trusted does not wait for the next dial, of which there is one a second at
        most.
        """
        scene = Scene(certificate=STRANGER.issue([NAME]))
        network = scene.network
        scene.connect("a")
        self.assertEqual([("a", True)], [(token, is_final) for token, _, is_final in scene.told.failures])
        dials: list[float] = []
        for number in range(200):
            network.advance(0.05)
            if number % 2:
                scene.ask(number)
            while len(dials) + 1 < scene.dials:
                dials.append(scene.clock.seconds())
                network.accept(scene.server)
            self.assertEqual(1 + (number + 1) // 2, len(scene.told.failures), number)
        self.assertEqual({True}, {is_final for _, _, is_final in scene.told.failures})
        self.assertLessEqual(len([at for at in dials if at > 2.0]), 8)

    def test_upstream_down_at_another_worker_is_down_here(self) -> None:
        """
        It is dialled when that is due, or when another worker reports it up.
        """
        for is_found_up in (False, True):
            scene = Scene()
            scene.upstream.learn_down(Unreachable("connect", "connection refused"))
            self.assertEqual((Tier.DOWN, []), (scene.upstream.tier, scene.heard.events))
            scene.ask("a")
            scene.network.advance(LEARNED_LATER)
            self.assertEqual(0, scene.dials)
            if is_found_up:
                scene.upstream.learn_up()
            scene.network.advance(0.0 if is_found_up else 0.11)
            self.assertEqual(1, scene.dials)
            scene.network.accept(scene.server)
            self.assertEqual((["a"], Tier.GOOD), (scene.told.answered_tokens, scene.upstream.tier))

    def test_another_worker_found_it_down_and_nobody_asks(self) -> None:
        """
        It is dialled all the same when that is due, so that queries find it up when it works again.
        """
        scene = Scene()
        scene.upstream.learn_down(Unreachable("connect", "connection refused"))
        self.assertEqual(0, scene.dials)
        scene.network.advance(60.0)
        self.assertEqual(1, scene.dials)
        scene.network.accept(scene.server)
        self.assertEqual(Tier.GOOD, scene.upstream.tier)

    def test_up_report_of_another_worker_dials_only_if_down(self) -> None:
        """
        An upstream without queries is not dialled for it; nor is a stopped one.
        """
        scene = Scene()
        scene.upstream.learn_up()
        self.assertEqual(0, scene.dials)
        scene.upstream.learn_down(Unreachable("connect", "connection refused"))
        scene.upstream.stopService()
        scene.upstream.learn_up()
        self.assertEqual(0, scene.dials)

    def test_each_failure_and_recovery_is_reported(self) -> None:
        """
        One pair of events for each failure; a reply while it is up reports nothing.
        """
        for number in range(1, 4):
            self.scene.ask(number)
            self.network.refuse(REFUSED)
            self.network.advance(0.2)
            self.network.accept_all(self.server)
            self.assertEqual(["down", "up"] * number, self.scene.heard.states())
            self.scene.ask(f"and {number}")
            self.network.settle()
            self.assertEqual(["down", "up"] * number, self.scene.heard.states())
            self.server.close_connections()
            self.network.settle()

    def test_down_report_of_another_worker_is_ignored_with_a_connection(self) -> None:
        """
        While a connection stands here the upstream is up.
        """
        self.scene.connect("a")
        self.scene.upstream.learn_down(Unreachable("connect", "connection refused"))
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)

    def test_query_resent_from_its_failure_callback_is_kept(self) -> None:
        """
        A query resent from within its failure callback is not lost.
        """

        def again(tokens: list[Any]) -> None:
            if len(self.told.failures) < 3:
                self.scene.ask(*tokens)

        self.told.on_failure = again
        self.scene.ask("a")
        self.network.refuse(REFUSED)
        self.network.advance(0.1)
        self.network.refuse(REFUSED)
        self.network.advance(0.2)
        self.network.accept(self.server)
        self.assertEqual(["a"], self.told.answered_tokens)

    def test_zero_length_message_ends_the_connection(self) -> None:
        """
        Later messages on that connection are ignored.
        """
        self.server.answer = lambda query: b""
        self.scene.connect("a", "b")
        self.assertEqual(["a", "b"], self.told.failed_tokens)
        _, error, is_final = self.told.failures[0]
        self.assertIsInstance(error, BadReply)
        self.assertEqual(("the upstream sent a message of 0 octets", False), (error.reason, is_final))
        self.assertEqual([], self.server.connections)
