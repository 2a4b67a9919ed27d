"""
One upstream that falls silent, does not read, or is stopped.
"""

import dns.edns
import dns.flags
import dns.message
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout, Unreachable
from dotproxy.policy.health import Tier
from dotproxy.upstream.connection import CLOSE_TIMEOUT, DRAIN_TIMEOUT
from dotproxy.upstream.health_probe import PROBE_QUERY
from dotproxy.upstream.pool import PROBE_GRACE, PROBE_TIMEOUT
from tests.upstream.scenes import AUTHORITY, ZONE, Scene

REFUSED = Refused(111, "Connection refused")
IS_PROBE = PROBE_QUERY[1][2:]


def names(queries: list[bytes]) -> list[bytes]:
    """
    Of each query everything but the ID.
    """
    return [query[2:] for query in queries]


class SilenceTests(SynchronousTestCase):
    """
    A connection that stands, and over which nothing comes.
    """

    def setUp(self) -> None:
        """
        An upstream that has answered once, and then falls silent with a question outstanding.
        """
        self.scene = Scene()
        self.network, self.server, self.told = self.scene.network, self.scene.server, self.scene.told
        self.answering = self.server.answer
        self.scene.connect("a")
        self.server.answer = lambda query: None
        self.network.advance(1)
        self.since = self.scene.clock.seconds()
        self.scene.ask("b")
        self.network.advance(1.5)

    def fall_silent_twice(self, pause: float) -> None:
        """
        Have the connection probed, let it reply to a query but not to the probe, and have it probed again, ``pause``
        seconds after the first time.
        """
        self.scene.upstream.check_liveness(self.since)
        self.network.settle()
        (query,) = (query for query in self.server.queries[-2:] if query[2:] != IS_PROBE)
        self.server.connections[0].send(self.answering(query) or b"")
        self.network.settle()
        self.assertEqual(["a", "b"], self.told.answered_tokens)
        since = self.scene.clock.seconds()
        self.scene.ask("c")
        self.network.advance(pause)
        self.scene.upstream.check_liveness(since)
        self.network.settle()
        self.assertEqual(2, names(self.server.queries).count(IS_PROBE))

    def test_replies_to_two_probes_are_not_passed_on(self) -> None:
        """
        A connection that is probed a second time before the first probe is answered may answer both.
        """
        self.fall_silent_twice(0.5)
        for probe in [query for query in self.server.queries if query[2:] == IS_PROBE]:
            self.server.connections[0].send(self.answering(probe) or b"")
            self.network.settle()
        self.assertEqual(["a", "b"], self.told.answered_tokens)

    def test_each_probe_has_the_whole_timeout(self) -> None:
        """
        The timeout of an earlier probe does not end a connection that is suspect again.
        """
        self.fall_silent_twice(PROBE_TIMEOUT - 0.1)
        self.network.advance(0.2)
        self.assertEqual([], self.told.failures)
        self.network.advance(PROBE_TIMEOUT)
        self.assertEqual(["c"], self.told.failed_tokens)

    def test_suspect_connection_is_probed_before_it_is_retired(self) -> None:
        """
        If the probe is answered nothing changes.
        """
        self.server.answer = self.answering
        self.assertFalse(self.scene.upstream.check_liveness(self.since))
        self.assertFalse(self.scene.upstream.check_liveness(self.since))
        self.network.settle()
        self.assertEqual(1, names(self.server.queries).count(IS_PROBE))
        self.network.advance(PROBE_TIMEOUT + 0.1)
        self.assertEqual((1, [], 0), (self.scene.dials, self.told.failures, self.scene.upstream.tier))
        self.assertEqual(["a"], self.told.answered_tokens)

    def test_connection_heard_recently_is_responsive(self) -> None:
        """
        One that replies to others is not suspect; the query may be resent.
        """
        self.server.answer = self.answering
        self.scene.ask("c")
        self.network.settle()
        self.assertTrue(self.scene.upstream.check_liveness(self.since))
        self.assertEqual(0, names(self.server.queries).count(IS_PROBE))

    def test_upstream_being_dialled_is_not_probed(self) -> None:
        """
        There is no connection to check during a dial.
        """
        scene = Scene()
        scene.ask("a")
        self.assertFalse(scene.upstream.check_liveness(self.since))

    def test_silent_connection_is_retired_and_late_replies_count(self) -> None:
        """
        If the probe brings nothing, questions are given back, a new connection is dialled, and a late answer
        over the old one still counts.
        """
        self.scene.upstream.check_liveness(self.since)
        self.network.advance(PROBE_TIMEOUT)
        self.assertEqual(["b"], self.told.failed_tokens)
        _, error, is_final = self.told.failures[0]
        self.assertIsInstance(error, Timeout)
        self.assertEqual(("the upstream: read: connected, but silent for 3.5 s", False), (str(error), is_final))
        self.assertEqual(["down"], self.scene.heard.states())
        self.network.advance(0.1)
        self.assertEqual(2, self.scene.dials)
        self.server.connections[0].send(ZONE(self.server.queries[1]) or b"")
        self.network.settle()
        self.assertEqual(["a", "b"], self.told.answered_tokens)
        self.assertEqual(["down"], self.scene.heard.states())

    def test_slow_connection_becomes_suspect_if_not_heard(self) -> None:
        """
        If it replies in time, it does not.
        """
        self.scene.upstream.watch(self.since, 0.2)
        self.scene.upstream.watch(self.since, 0.2)
        self.network.advance(0.2)
        self.assertEqual(1, names(self.server.queries).count(IS_PROBE))
        scene = Scene()
        scene.connect("a")
        scene.server.answer, answer = lambda query: None, scene.server.answer
        scene.network.advance(1)
        since = scene.clock.seconds()
        scene.ask("b", "c")
        scene.upstream.watch(since, 0.2)
        scene.network.advance(0.1)
        scene.server.connections[0].send(answer(scene.server.queries[-1]) or b"")
        scene.network.settle()
        scene.network.advance(0.2)
        self.assertEqual(0, names(scene.server.queries).count(IS_PROBE))

    def test_replacement_is_dialled_before_queries_are_given_back(self) -> None:
        """
        If the probe brings nothing soon another connection is dialled; once that stands the questions are given back,
        and the upstream was never down.
        """
        self.scene.upstream.check_liveness(self.since)
        self.assertEqual(Tier.SLOW, self.scene.upstream.tier)
        self.network.advance(PROBE_GRACE[1] - 0.01)
        self.assertEqual(1, self.scene.dials)
        self.network.advance(0.02)
        self.server.answer = self.answering
        self.network.accept(self.server)
        self.assertEqual((["b"], []), (self.told.failed_tokens, self.scene.heard.states()))
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)
        self.scene.ask("c")
        self.network.settle()
        self.assertEqual(["a", "c"], self.told.answered_tokens)

    def test_late_probe_reply_is_dropped(self) -> None:
        """
        It belongs to no query, whether after other replies, or over a retired connection.
        """
        self.scene.upstream.check_liveness(self.since)
        self.network.settle()
        probe = self.server.queries[-1]
        connection = self.server.connections[0]
        connection.send(ZONE(self.server.queries[-2]) or b"")
        self.network.settle()
        connection.send(ZONE(probe) or b"")
        self.network.settle()
        self.assertEqual(["a", "b"], self.told.answered_tokens)

    def test_retired_connection_is_aborted_without_giving_queries_back_twice(self) -> None:
        """
        A retired connection is cut in the end, and its questions are not given back a second time.
        """
        self.scene.upstream.check_liveness(self.since)
        self.network.advance(PROBE_TIMEOUT)
        self.network.advance(DRAIN_TIMEOUT)
        self.assertEqual((["b"], []), (self.told.failed_tokens, self.server.connections))

    def test_retired_connection_is_closed_after_its_last_reply(self) -> None:
        """
        When everything was answered after all, a retired connection has no more use.
        """
        self.scene.upstream.check_liveness(self.since)
        self.network.advance(PROBE_TIMEOUT)
        for query in self.server.queries[1:]:
            self.server.connections[0].send(ZONE(query) or b"")
        self.network.settle()
        self.assertEqual([], self.server.connections)

    def test_silent_upstream_is_up_after_a_probe_reply_only(self) -> None:
        """
        Until then each new connection is probed.
        """
        self.scene.upstream.check_liveness(self.since)
        self.network.advance(PROBE_TIMEOUT)
        self.network.advance(0.1)
        self.network.accept(self.server)
        self.assertEqual(Tier.DOWN, self.scene.upstream.tier)
        self.assertEqual(2, names(self.server.queries).count(IS_PROBE))
        self.network.advance(PROBE_TIMEOUT)
        self.network.advance(0.2)
        self.server.answer = self.answering
        self.network.accept(self.server)
        self.assertEqual(Tier.GOOD, self.scene.upstream.tier)
        self.assertEqual(["down", "up"], self.scene.heard.states())
        self.assertEqual(["a"], self.told.answered_tokens)


class RoomTests(SynchronousTestCase):
    """
    An upstream that does not read.
    """

    def test_queries_wait_while_the_connection_is_blocked(self) -> None:
        """
        While the transport's buffer is full queries wait, and go out when there is room.
        """
        scene = Scene()
        scene.connect("a")
        scene.network.advance(1)
        connection = scene.upstream._pool.select()
        connection.pauseProducing()
        scene.ask("b")
        scene.network.settle()
        self.assertEqual(["a"], scene.told.answered_tokens)
        connection.resumeProducing()
        scene.network.settle()
        self.assertEqual(["a", "b"], scene.told.answered_tokens)
        connection.resumeProducing()

    def test_queries_of_a_lost_blocked_connection_go_out_on_a_new_one(self) -> None:
        """
        What waited for room on it goes out on a new connection.
        """
        scene = Scene()
        scene.connect("a")
        scene.upstream._pool.select().pauseProducing()
        scene.ask("b")
        scene.server.close_connections()
        scene.network.settle()
        self.assertEqual(2, scene.dials)
        scene.network.accept(scene.server)
        self.assertEqual(["a", "b"], scene.told.answered_tokens)

    def test_suspect_blocked_connection_is_retired_at_once(self) -> None:
        """
        It takes no probe, and nothing is received.
        """
        scene = Scene()
        scene.connect("a")
        scene.server.answer = lambda query: None
        scene.ask("b")
        scene.network.advance(2)
        scene.upstream._pool.select().pauseProducing()
        self.assertFalse(scene.upstream.check_liveness(scene.clock.seconds()))
        self.assertEqual(["b"], scene.told.failed_tokens)


class StopTests(SynchronousTestCase):
    """
    The end, in every state.
    """

    def stopped(self, scene: Scene) -> None:
        """
        Stop, and see that nothing is left.
        """
        stopping = scene.upstream.stopService()
        scene.network.settle()
        self.successResultOf(stopping)
        self.assertEqual([], scene.clock.getDelayedCalls())
        self.assertEqual([], scene.server.connections)
        scene.ask("late")
        self.assertEqual("late", scene.told.failed_tokens[-1])
        self.assertIsInstance(scene.told.failures[-1][1], Unreachable)

    def test_unused_upstream_stops_at_once(self) -> None:
        """
        One that was never asked stops at once.
        """
        self.stopped(Scene())

    def test_stop_cancels_the_dial_and_fails_waiting_queries(self) -> None:
        """
        A dial under way is given up, and what waits for it fails.
        """
        scene = Scene()
        scene.ask("a")
        self.stopped(scene)
        self.assertEqual(["a", "late"], scene.told.failed_tokens)

    def test_stop_closes_the_connection_and_fails_its_queries(self) -> None:
        """
        A connection is closed; what is outstanding on it fails.
        """
        scene = Scene()
        scene.server.answer = lambda query: None
        scene.connect("a")
        self.stopped(scene)
        self.assertEqual(["a", "late"], scene.told.failed_tokens)

    def test_stopped_upstream_does_not_redial(self) -> None:
        """
        It does not dial again when it is stopped.
        """
        scene = Scene(AUTHORITY.issue(["other.test"]))
        scene.connect("a")
        self.stopped(scene)

    def test_stop_ends_retired_connections_and_probes(self) -> None:
        """
        Retired connections and probes end with it.
        """
        scene = Scene()
        scene.server.answer = lambda query: None
        scene.connect("a")
        scene.network.advance(2)
        scene.upstream.check_liveness(scene.clock.seconds())
        scene.network.advance(PROBE_TIMEOUT)
        scene.network.advance(0.1)
        scene.network.accept(scene.server)
        self.stopped(scene)

    def test_stop_takes_a_second_at_most(self) -> None:
        """
        The peer does not answer the close.
        """
        scene = Scene()
        scene.connect("a")
        cut: list[bool] = []
        self.patch(scene.upstream._pool.select().transport.transport, "abortConnection", lambda: cut.append(True))
        stopping = scene.upstream.stopService()
        scene.clock.advance(CLOSE_TIMEOUT - 0.01)
        self.assertNoResult(stopping)
        self.assertEqual([], cut)
        scene.clock.advance(0.01)
        self.assertEqual([True], cut)


class ProbeTests(SynchronousTestCase):
    """
    The question of our own.
    """

    def test_probe_is_for_the_root_name_servers_padded_like_other_queries(self) -> None:
        """
        ``. IN NS`` without RD, as long as other queries.
        """
        _, query, end = PROBE_QUERY
        message = dns.message.from_wire(query)
        self.assertEqual(". IN NS", message.question[0].to_text())
        self.assertEqual((dns.flags.Flag(0), 17), (message.flags, end))
        self.assertEqual(0, len(query) % 128)
