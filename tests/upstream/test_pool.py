"""
Connections to one upstream: how many, how old, and what is learned of how they end.
"""

import itertools
from random import Random

import dns.edns
import dns.flags
import dns.message
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionEnd, Timeout
from dotproxy.policy.health import Tier
from dotproxy.upstream import pool
from dotproxy.upstream.connection import DRAIN_TIMEOUT
from dotproxy.upstream.pool import MAX_AGE, MAX_STANDING, PROBE_GRACE
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.upstream import Upstream
from fuzz.servers import Connection, Server
from tests import rounds
from tests.upstream.scenes import ZONE, Heard, Scene, Told, make_question
from tests.upstream.test_upstream_ends import IS_PROBE, names


class SlowTests(SynchronousTestCase):
    """
    An upstream whose answers are overdue.
    """

    def test_slow_upstream_is_preferred_again_after_a_reply_in_time(self) -> None:
        """
        It is not preferred for a second, then probed; a reply in time restores it.
        """
        scene = Scene()
        scene.connect("a")
        scene.upstream.record_late(12)
        self.assertEqual(Tier.SLOW, scene.upstream.tier)
        scene.network.advance(0.9)
        self.assertEqual(0, names(scene.server.queries).count(IS_PROBE))
        scene.network.advance(0.2)
        self.assertEqual(1, names(scene.server.queries).count(IS_PROBE))
        self.assertEqual(Tier.GOOD, scene.upstream.tier)
        self.assertEqual(["a"], scene.told.answered_tokens)

    def test_slow_upstream_is_probed_less_and_less_often(self) -> None:
        """
        If the probe is not answered in time either, the next one is later each time.
        """
        scene = Scene()
        scene.connect("a")
        scene.server.answer = lambda query: None
        scene.upstream.record_late(12)
        tried = []
        for _ in range(300):
            scene.network.advance(0.1)
            queries, scene.server.queries = scene.server.queries, []
            if queries:
                tried.append(scene.clock.seconds())
                reply = ZONE(queries[0])
                scene.clock.callLater(0.6, scene.server.connections[0].send, reply)
        gaps = [round(later - sooner) for sooner, later in itertools.pairwise(tried)]
        self.assertEqual([3, 5, 9], [gap for gap in gaps if gap > 1][:3])
        self.assertEqual(Tier.SLOW, scene.upstream.tier)

    def test_slow_dial_lowers_the_preference_until_it_ends(self) -> None:
        """
        During a slow dial other upstreams are preferred.
        """
        scene = Scene()
        scene.ask("a")
        scene.network.advance(0.2)
        self.assertEqual(Tier.GOOD, scene.upstream.tier)
        scene.network.advance(0.1)
        self.assertEqual(Tier.SLOW, scene.upstream.tier)
        scene.network.accept(scene.server)
        self.assertEqual(Tier.GOOD, scene.upstream.tier)


class NumberTests(SynchronousTestCase):
    """
    Bounds in seconds, and in connections.
    """

    def test_connection_age_and_number_limits(self) -> None:
        """
        A connection is replaced after ten minutes; one upstream has 128 at most.
        """
        self.assertEqual((600.0, 128), (MAX_AGE, pool.MAX_STANDING))


class AgeTests(SynchronousTestCase):
    """
    Connections do not live for ever.
    """

    def test_query_after_ten_idle_minutes_takes_one_resumed_handshake(self) -> None:
        """
        The idle connection was closed; one resumed handshake replaces it.
        """
        scene = Scene()
        scene.connect("a")
        scene.network.advance(600)
        self.assertEqual([], scene.server.connections)
        scene.connect("b")
        self.assertEqual(["a", "b"], scene.told.answered_tokens)
        resumed = [event[4] for event in scene.heard.events if event[0] == "connected"]
        self.assertEqual([False, True], resumed)
        self.assertEqual(([], 2), (scene.told.failures, scene.dials))

    def test_aged_connection_in_use_is_replaced_before_it_ends(self) -> None:
        """
        No query waits for the dial.
        """
        scene = Scene(idle_timeout=3600.0)
        scene.connect("a")
        token = 0
        while scene.dials == 1:
            token += 1
            scene.ask(token)
            scene.network.advance(0.5)
        self.assertAlmostEqual(MAX_AGE * 0.9, scene.clock.seconds(), delta=1)
        scene.ask("still")
        scene.network.settle()
        scene.network.accept(scene.server)
        scene.network.advance(1)
        self.assertEqual(1, len(scene.server.connections))
        self.assertEqual([], scene.told.failures)
        self.assertIn("still", scene.told.answered_tokens)

    def test_aged_idle_connection_is_closed(self) -> None:
        """
        It is not replaced.
        """
        scene = Scene(idle_timeout=3600.0)
        scene.connect("a")
        scene.network.advance(MAX_AGE)
        self.assertEqual((1, []), (scene.dials, scene.server.connections))

    def test_replaced_connections_leave_no_timers(self) -> None:
        """
        After many replacements there are as many timers and connections as after one.
        """
        scene, generations = Scene(), rounds(1000, quick=200)
        timers = set()
        for generation in range(generations):
            scene.connect(generation)
            scene.server.close_connections()
            scene.network.settle()
            timers.add(len(scene.clock.getDelayedCalls()))
            scene.network._pumps.clear()
        self.assertEqual(generations, len(scene.told.answers))
        self.assertEqual(1, len(timers))
        pool = scene.upstream._pool
        self.assertEqual((0, "no connection", 0), (pool.connections, pool.summary, len(pool.timers)))


class ReprTests(SynchronousTestCase):
    """
    What a pool, its upstream and a connection say of themselves.
    """

    def setUp(self) -> None:
        """
        An upstream that has replied once.
        """
        self.scene = Scene()
        self.pool = self.scene.upstream._pool
        self.scene.connect("a")
        self.scene.server.answer = lambda query: None

    def test_repr_counts_dials(self) -> None:
        """
        A query that waits for a dial is counted by the upstream.
        """
        scene = Scene()
        self.assertEqual("<Pool the upstream: no connection>", repr(scene.upstream._pool))
        scene.ask("a")
        self.assertEqual("<Pool the upstream: 1 dialling>", repr(scene.upstream._pool))
        self.assertEqual("<Upstream the upstream: good, 1 waiting; 1 dialling>", repr(scene.upstream))
        scene.network.refuse(Refused())
        self.assertEqual("<Upstream the upstream: down, 0 waiting; no connection>", repr(scene.upstream))

    def test_repr_shows_suspect_during_a_probe(self) -> None:
        """
        A probe makes a connection suspect and the upstream slow; any reply makes it ready again.
        """
        self.scene.ask("b", "c")
        connection = self.pool.select()
        self.assertEqual("<DotConnection ready: 2 in flight, 1 replies received>", repr(connection))
        self.scene.upstream.check_liveness(self.scene.clock.seconds() + 1)
        self.assertEqual("<Pool the upstream: 1 suspect (3 in flight)>", repr(self.pool))
        self.assertEqual("<Upstream the upstream: slow, 0 waiting; 1 suspect (3 in flight)>", repr(self.scene.upstream))
        self.scene.network.settle()
        self.scene.server.connections[0].send(ZONE(self.scene.server.queries[-2]) or b"")
        self.scene.network.settle()
        self.assertEqual("<Pool the upstream: 1 ready (2 in flight)>", repr(self.pool))

    def test_repr_shows_the_retired_connection_beside_its_replacement(self) -> None:
        """
        A connection that stays silent is retired when the replacement is verified.
        """
        self.scene.ask("b")
        self.scene.upstream.check_liveness(self.scene.clock.seconds() + 1)
        self.scene.network.advance(PROBE_GRACE[1])
        self.assertEqual("<Pool the upstream: 1 dialling, 1 suspect (2 in flight)>", repr(self.pool))
        self.scene.network.accept(self.scene.server)
        self.assertEqual("<Pool the upstream: 1 ready, 1 retired (2 in flight)>", repr(self.pool))
        self.assertEqual(["b"], self.scene.told.failed_tokens)
        self.scene.network.advance(DRAIN_TIMEOUT)
        self.assertEqual("<Pool the upstream: 1 ready>", repr(self.pool))
        self.assertEqual(["b"], self.scene.told.failed_tokens)

    def test_repr_shows_draining_then_closing(self) -> None:
        """
        A connection that drains keeps its queries until they are replied to, and is closed then.
        """
        self.scene.ask("b")
        self.scene.network.settle()
        connection = self.pool.select()
        assert connection is not None
        connection.drain(ConnectionEnd.REPLACED)
        self.assertEqual("<Pool the upstream: 1 draining (1 in flight)>", repr(self.pool))
        self.assertIsNone(self.pool.select())
        connection.drain(ConnectionEnd.REPLACED)
        self.scene.server.connections[0].send(ZONE(self.scene.server.queries[-1]) or b"")
        self.scene.network.settle()
        self.assertEqual(["a", "b"], self.scene.told.answered_tokens)
        self.assertEqual("<DotConnection closed: 0 in flight, 2 replies received>", repr(connection))
        self.assertEqual("<Pool the upstream: no connection>", repr(self.pool))

    def test_draining_connection_is_aborted_after_its_timeout(self) -> None:
        """
        Its query has timed out: it was neither ended by the server nor is the query at fault.
        """
        self.scene.ask("b")
        self.scene.network.settle()
        connection = self.pool.select()
        assert connection is not None
        connection.drain(ConnectionEnd.REPLACED)
        self.scene.network.advance(DRAIN_TIMEOUT)
        ((token, error, is_final),) = self.scene.told.failures
        self.assertIsInstance(error, Timeout)
        self.assertEqual(("b", "the upstream: read: no answer in time", False), (token, str(error), is_final))
        self.assertEqual({("us", "silence"): 1}, +self.scene.upstream.counters.connections_closed)


class SharingTests(SynchronousTestCase):
    """
    A server that answers one question after the other, and slowly.
    """

    def burdened(self) -> Scene:
        """
        An upstream with twenty questions outstanding and slow answers, that has dialled once more.
        """
        scene = Scene()
        scene.connect("a")
        scene.server.answer = lambda query: None
        scene.ask(*range(20))
        scene.upstream.record_latency(0.5, 1)
        self.assertEqual(2, scene.dials)
        return scene

    def test_queries_go_to_the_connection_with_fewest_in_flight(self) -> None:
        """
        The connection with the fewest queries in flight is sent the next one.
        """
        scene = self.burdened()
        scene.network.accept(scene.server)
        scene.ask("first")
        scene.upstream.record_latency(0.05, 1)
        scene.ask("second")
        scene.network.settle()
        one, other = scene.server.connections
        self.assertEqual([22, 1], [len(one.queries), len(other.queries)])

    def test_shared_connections_are_four_at_most(self) -> None:
        """
        However slow it is.
        """
        scene = self.burdened()
        for turn in range(10):
            if turn < 3:
                scene.network.accept(scene.server)
            scene.ask(*range(100 * turn + 100, 100 * turn + 200))
            scene.upstream.record_latency(0.5, 1)
        self.assertEqual(4, scene.dials)

    def test_failed_extra_dial_is_no_failure_of_the_upstream(self) -> None:
        """
        An upstream with a working connection stays up; the extra dial is not repeated for a minute.
        """
        scene = self.burdened()
        scene.network.refuse(Refused())
        self.assertEqual((Tier.GOOD, []), (scene.upstream.tier, scene.told.failures))
        scene.upstream.record_latency(0.5, 1)
        self.assertEqual(2, scene.dials)
        scene.clock.rightNow += 61
        scene.upstream.record_latency(0.5, 1)
        self.assertEqual(3, scene.dials)

    def test_silent_connection_gives_its_queries_back(self) -> None:
        """
        Its queries are given back when it was silent for the whole timeout.
        """
        scene = self.burdened()
        scene.network.accept(scene.server)
        scene.upstream.record_latency(0.05, 1)
        for _ in range(6):
            scene.ask("on")
            scene.clock.rightNow += 1
            scene.upstream.check_liveness(scene.clock.seconds() - 0.3)
        self.assertEqual(set(range(20)), set(scene.told.failed_tokens) - {"on"})

    def test_spare_connection_takes_over_from_a_lost_one(self) -> None:
        """
        The next query does not wait for a dial.
        """
        scene = self.burdened()
        scene.network.accept(scene.server)
        scene.server.connections[0].transport.loseConnection()
        scene.network.settle()
        self.assertEqual("<Pool the upstream: 1 ready>", repr(scene.upstream._pool))
        scene.ask("next")
        scene.network.settle()
        self.assertEqual("<Pool the upstream: 1 ready (1 in flight)>", repr(scene.upstream._pool))
        self.assertEqual(2, scene.dials)

    def test_loss_of_an_aged_connection_does_not_block_later_dials(self) -> None:
        """
        One that ends while its replacement is dialled keeps no other from being dialled later.
        """
        scene = Scene(idle_timeout=3600.0)
        scene.connect("a")
        while scene.dials == 1:
            scene.ask(scene.clock.seconds())
            scene.network.advance(0.5)
        scene.server.close_connections()
        scene.network.settle()
        scene.network.accept(scene.server)
        scene.server.answer = lambda query: None
        scene.ask(*range(20))
        dials = scene.dials
        scene.upstream.record_latency(0.5, 1)
        self.assertEqual(dials + 1, scene.dials)

    def test_aged_shared_connection_is_closed_without_replacement(self) -> None:
        """
        It is closed, and not replaced.
        """
        scene = Scene(idle_timeout=3600.0)
        scene.connect("a")
        scene.server.answer = lambda query: None
        scene.ask(*range(20))
        scene.upstream.record_latency(0.5, 1)
        scene.network.accept(scene.server)
        for connection in tuple(scene.server.connections):
            for query in connection.queries[-20:]:
                connection.send(ZONE(query) or b"")
        scene.network.settle()
        scene.network.advance(MAX_AGE)
        self.assertEqual((2, []), (scene.dials, scene.server.connections))

    def test_aged_connection_stays_until_a_replacement_succeeds(self) -> None:
        """
        If the dial fails the old connection stays in use, and is replaced later.
        """
        scene = Scene(idle_timeout=3600.0)
        scene.connect("a")
        while scene.dials == 1:
            scene.ask(scene.clock.seconds())
            scene.network.advance(0.5)
        scene.network.refuse(Refused())
        self.assertEqual(Tier.GOOD, scene.upstream.tier)
        for _ in range(130):
            scene.ask(scene.clock.seconds())
            scene.network.advance(0.5)
        self.assertEqual(3, scene.dials)
        self.assertEqual([], scene.told.failures)


class QuotaTests(SynchronousTestCase):
    """
    A server that answers so many questions over one connection, and no more.
    """

    def learned(self) -> Scene:
        """
        An upstream that is known to close after two answers.
        """
        scene = Scene()
        answer = scene.server.answer

        def two(query: bytes) -> bytes | None:
            scene.clock.callLater(0, self.close_after_two, scene)
            return answer(query)

        self.asked = 0
        scene.server.answer = two
        for number in range(3):
            scene.connect((number, 1), (number, 2))
            scene.network.settle()
        return scene

    def close_after_two(self, scene: Scene) -> None:
        """
        Called after each answer.
        """
        self.asked += 1
        if self.asked % 2 == 0 and scene.server.connections:
            scene.server.connections[0].transport.loseConnection()

    def test_learned_limit_shares_queries_among_new_connections(self) -> None:
        """
        Once the limit is known, waiting queries are shared among connections dialled at once, each within the limit.
        """
        scene = self.learned()
        dials = scene.dials
        scene.ask(*range(5))
        self.assertEqual(3, scene.dials - dials)
        scene.ask(5)
        self.assertEqual(3, scene.dials - dials)
        for _ in range(3):
            scene.network.accept(scene.server)
        scene.network.settle()
        self.assertEqual(set(range(6)), set(scene.told.answered_tokens[6:]))
        self.assertEqual([], scene.told.failures)

    def test_exhausted_silent_connection_gives_its_queries_back(self) -> None:
        """
        Queries over a connection at its limit that brings no reply are given back when they are overdue.
        """
        scene = self.learned()
        scene.server.answer = lambda query: None
        scene.connect("a", "b")
        since = scene.clock.seconds()
        scene.ask("c")
        scene.network.advance(0.3)
        scene.upstream.check_liveness(since)
        self.assertEqual(["a", "b"], scene.told.failed_tokens)

    def test_exhausted_connection_is_closed_after_its_last_reply(self) -> None:
        """
        Without the last reply it is closed after a timeout.
        """
        scene = self.learned()
        scene.server.answer = lambda query: None
        scene.connect("a", "b")
        scene.ask("c")
        connection = scene.server.connections[0]
        for query in scene.server.queries[-2:]:
            connection.send(ZONE(query) or b"")
        scene.network.settle()
        self.assertEqual([], scene.server.connections)
        scene.network.accept(scene.server)
        scene.ask("d", "e")
        scene.network.settle()
        scene.network.advance(DRAIN_TIMEOUT)
        self.assertEqual({"c", "d"}, set(scene.told.failed_tokens) - {"e"})


class MovedTests(SynchronousTestCase):
    """
    The machine has another network.
    """

    def test_network_change_drops_connections_and_dials_again(self) -> None:
        """
        Queries in flight are given back at once, an idle connection is closed, a dial begun anew.
        """
        scene = Scene()
        scene.connect("a")
        scene.server.answer = lambda query: None
        scene.ask("b")
        scene.network.settle()
        scene.upstream.network_moved()
        self.assertEqual(["b"], scene.told.failed_tokens)
        self.assertEqual([], scene.heard.states())
        scene.ask("c")
        self.assertEqual(2, scene.dials)
        scene.upstream.network_moved()
        self.assertEqual(3, scene.dials)

    def test_network_change_dials_an_upstream_that_was_down(self) -> None:
        """
        It is dialled at once, without a query.
        """
        scene = Scene()
        scene.ask("a")
        for _ in range(5):
            scene.network.refuse(Refused())
            scene.network.advance(5)
        scene.network.refuse(Refused())
        dials = scene.dials
        scene.upstream.network_moved()
        self.assertEqual(dials + 1, scene.dials)
        scene.network.accept(scene.server)
        self.assertEqual(["down", "up"], scene.heard.states())

    def test_network_change_without_connections_does_nothing(self) -> None:
        """
        With nothing to do it does nothing.
        """
        scene = Scene()
        scene.upstream.network_moved()
        self.assertEqual(0, scene.dials)


class IdleTests(SynchronousTestCase):
    """
    Upstreams that close idle connections sooner than we do.
    """

    def test_connection_is_closed_before_the_learned_idle_timeout(self) -> None:
        """
        The next connection is closed after nine tenths of the time, before the upstream would.
        """
        scene = Scene()
        scene.connect("a")
        scene.network.advance(10)
        scene.server.close_connections()
        scene.network.settle()
        scene.connect("b")
        scene.network.advance(8.9)
        self.assertEqual(1, len(scene.server.connections))
        scene.network.advance(0.2)
        self.assertEqual([], scene.server.connections)

    def test_close_within_0_2_seconds_is_no_idle_timeout(self) -> None:
        """
        Within 0.2 s it is no idle timeout.
        """
        scene = Scene()
        scene.connect("a")
        scene.network.advance(0.1)
        scene.server.close_connections()
        scene.network.settle()
        scene.connect("b")
        scene.network.advance(29)
        self.assertEqual(1, len(scene.server.connections))


class KeepaliveTests(SynchronousTestCase):
    """
    Upstreams that say how long they keep an idle connection (RFC 7828 §3.2.2).
    """

    def connected(self, tenths: int) -> Scene:
        """
        A connection whose upstream has said so.
        """
        scene = Scene()
        self.keep(scene, tenths)
        scene.connect("a")
        return scene

    def keep(self, scene: Scene, tenths: int) -> None:
        """
        Let the upstream grant this much with each answer.
        """

        def answer(query: bytes) -> bytes | None:
            reply = dns.message.from_wire(ZONE(query) or b"")
            reply.use_edns(0, options=[dns.edns.GenericOption(11, tenths.to_bytes(2, "big"))])
            return reply.to_wire()

        scene.server.answer = answer

    def test_connection_is_closed_before_the_granted_timeout(self) -> None:
        """
        It is closed by us before the upstream would.
        """
        scene = self.connected(50)
        scene.network.advance(4.4)
        self.assertEqual(1, len(scene.server.connections))
        scene.network.advance(0.2)
        self.assertEqual([], scene.server.connections)
        self.assertEqual([], scene.told.failures)

    def test_longer_granted_timeout_does_not_extend_ours(self) -> None:
        """
        The configured idle timeout is the maximum.
        """
        scene = self.connected(65535)
        scene.network.advance(29)
        self.assertEqual(1, len(scene.server.connections))
        scene.network.advance(2)
        self.assertEqual([], scene.server.connections)

    def test_keepalive_timeout_of_zero_drains_then_closes(self) -> None:
        """
        With a timeout of 0 no more queries are sent over it, replies in flight are accepted, then it is closed.
        """
        scene = self.connected(300)
        answer = scene.server.answer
        scene.server.answer = lambda query: None
        scene.ask("b", "c")
        scene.network.settle()
        b, c = scene.server.queries[-2:]
        self.keep(scene, 0)
        leave = scene.server.answer
        connection = scene.server.connections[0]
        connection.send(leave(b) or b"")
        scene.network.settle()
        scene.ask("d")
        scene.network.settle()
        self.assertEqual((2, 1), (scene.dials, len(scene.server.connections)))
        connection.send(leave(c) or b"")
        scene.network.settle()
        self.assertEqual([], scene.server.connections)
        scene.server.answer = answer
        scene.network.accept(scene.server)
        self.assertEqual(["a", "b", "c", "d"], scene.told.answered_tokens)
        self.assertEqual([], scene.told.failures)

    def test_drained_connection_gives_unanswered_queries_back(self) -> None:
        """
        Queries without a reply over a draining connection are given back after a timeout.
        """
        scene = self.connected(300)
        scene.server.answer = lambda query: None
        scene.ask("b", "c")
        scene.network.settle()
        self.keep(scene, 0)
        scene.server.connections[0].send((scene.server.answer)(scene.server.queries[-2]) or b"")
        scene.network.settle()
        scene.network.advance(DRAIN_TIMEOUT)
        self.assertEqual(["c"], scene.told.failed_tokens)
        self.assertEqual([], scene.server.connections)


class SilentServer(Server):
    """
    One that takes every connection, and answers nothing.
    """

    def asked(self, connection: Connection, query: bytes) -> None:
        """
        Say nothing.
        """


class ManyConnectionsTests(SynchronousTestCase):
    """
    An upstream that answered one query over each connection, and then answers none.
    """

    def test_number_of_connections_is_bounded(self) -> None:
        """
        Each query wants a connection of its own, each of which stands for four seconds: the limit holds.
        """
        clock, random = Clock(), Random(1)
        server = SilentServer(clock, random, {}, IPv4Address("TCP", "192.0.2.1", 853), refused=0)
        upstream = Upstream(
            "the upstream",
            server,
            UpstreamSettings(),
            runtime=Runtime(clock, clock.seconds, random.randbytes, lambda: 0.0),
            events=Heard(),
        )
        upstream.bind(Told())
        upstream.startService()
        upstream.per_connection_limit.learn(1)
        most = 0
        for number in range(600):
            upstream.send([make_question(number)])
            clock.advance(0.005)
            most = max(most, len(server.connections))
        self.assertEqual(MAX_STANDING, most)
        stood = tuple(server.connections)
        clock.pump([0.5] * 12)
        self.assertTrue(all(connection.is_over for connection in stood))
        upstream.send([make_question("one more")])
        clock.advance(0.005)
        self.assertTrue(server.connections)
