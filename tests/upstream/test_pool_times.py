"""
Times and numbers of the connections to one upstream.

The values are written out here, so that a test fails when a constant changes.
"""

from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionEnd
from dotproxy.policy.health import Tier
from dotproxy.upstream.pool import Pool
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from tests.upstream.scenes import ADDRESS, ZONE, Counting, Scene, make_verifier


def scene_with_jitter(jitter: float) -> Scene:
    """
    Return an upstream whose source of random numbers returns this one, and that never closes a connection as idle.
    """
    scene = Scene()
    endpoint = VerifiedEndpoint(scene.clock, ADDRESS, 853, make_verifier(), 3.0)
    runtime = Runtime(scene.clock, scene.clock.seconds, Counting(), lambda: jitter)
    scene.upstream = Upstream("the upstream", endpoint, UpstreamSettings(36000.0), runtime=runtime, events=scene.heard)
    scene.upstream.bind(scene.told)
    scene.upstream.startService()
    return scene


def pool_of(scene: Scene) -> Pool:
    """
    Return the connections of the scene's upstream.
    """
    return scene.upstream._pool


class AgeTests(SynchronousTestCase):
    """
    When a connection is replaced.
    """

    def test_age_is_ten_minutes_and_a_tenth_at_most(self) -> None:
        """
        Between 540 and 660 s, by a random number, so that connections do not all end together.
        """
        for jitter, age in ((0.0, 540.0), (0.5, 600.0), (1.0, 660.0)):
            scene = scene_with_jitter(jitter)
            scene.connect("a")
            scene.network.advance(age - 0.5)
            self.assertEqual(1, len(scene.server.connections), jitter)
            scene.network.advance(1.0)
            self.assertEqual([], scene.server.connections, jitter)

    def test_connection_used_within_the_last_second_is_replaced(self) -> None:
        """
        One that was used a second ago or earlier is closed instead.
        """
        for idle, dials in ((0.9, 2), (1.0, 1), (1.1, 1)):
            scene = scene_with_jitter(0.0)
            scene.connect("a")
            scene.network.advance(540.0 - idle)
            scene.ask("b")
            scene.network.settle()
            scene.network.advance(idle + 0.001)
            self.assertEqual(dials, scene.dials, idle)
            self.assertEqual(2 - dials, 1 - len(scene.server.connections), idle)

    def test_redial_of_an_aged_connection_waits_for_a_minute(self) -> None:
        """
        If the replacement cannot be dialled, the old connection goes on, and the next dial is 60 s later.
        """
        scene = scene_with_jitter(0.0)
        scene.connect("a")
        scene.network.advance(539.9)
        scene.ask("b")
        scene.network.advance(0.2)
        scene.network.refuse(Refused())
        self.assertEqual((2, Tier.GOOD), (scene.dials, scene.upstream.tier))
        scene.network.advance(59.5)
        scene.ask("c")
        scene.network.settle()
        self.assertEqual(2, scene.dials)
        scene.network.advance(0.6)
        self.assertEqual(3, scene.dials)
        self.assertEqual(["a", "b", "c"], scene.told.answered_tokens)


class SilenceTests(SynchronousTestCase):
    """
    When a connection that receives nothing is replaced, and when it is given up.
    """

    def silent(self, latency: float | None) -> Scene:
        """
        Return an upstream with this median latency, whose connection has just been sent a probe.
        """
        scene = Scene()
        scene.connect("a")
        scene.server.answer = lambda query: None
        scene.ask("b")
        scene.network.settle()
        scene.upstream.latency.p50 = latency
        pool_of(scene).check_liveness()
        scene.network.settle()
        return scene

    def test_grace_is_thrice_the_median_latency(self) -> None:
        """
        Another connection is dialled after three medians, but 0.05 s at least and 0.25 s at most.
        """
        for latency, grace in ((None, 0.25), (0.001, 0.05), (0.03, 0.09), (0.2, 0.25)):
            scene = self.silent(latency)
            scene.network.advance(grace - 0.005)
            self.assertEqual(1, scene.dials, latency)
            scene.network.advance(0.01)
            self.assertEqual(2, scene.dials, latency)

    def test_silent_connection_is_given_up_after_one_second(self) -> None:
        """
        Its query fails then, with the seconds of silence, even if no other connection is verified.
        """
        scene = self.silent(None)
        scene.network.advance(0.25)
        scene.network.advance(0.7)
        self.assertEqual([], scene.told.failures)
        scene.network.advance(0.1)
        ((token, error, _),) = scene.told.failures
        self.assertEqual("b", token)
        self.assertRegex(str(error), r"^the upstream: read: connected, but silent for 1\.[01] s$")

    def test_reply_ends_the_suspicion(self) -> None:
        """
        After any reply nothing is dialled, and nothing given up.
        """
        scene = self.silent(None)
        scene.server.connections[0].send(ZONE(scene.server.queries[-2]) or b"")
        scene.network.settle()
        scene.network.advance(2.0)
        self.assertEqual((1, ["a", "b"], []), (scene.dials, scene.told.answered_tokens, scene.told.failures))

    def test_second_check_sends_no_second_probe(self) -> None:
        """
        One probe is enough; stalls are counted once, too.
        """
        scene = self.silent(None)
        for _ in range(3):
            pool_of(scene).check_liveness()
        scene.network.settle()
        self.assertEqual((3, 1), (len(scene.server.queries), scene.upstream.counters.stalls))


class DialTests(SynchronousTestCase):
    """
    How many connections are dialled.
    """

    def dials(self, limit: int | None, queries: int) -> int:
        """
        Return how many connections are dialled for so many queries that wait, at so many queries on each.
        """
        scene = Scene()
        scene.upstream.per_connection_limit.learn(limit)
        scene.ask(*range(queries))
        return scene.dials

    def test_dials_by_limit(self) -> None:
        """
        One without a limit; with one as many as are needed, and eight at once at most.
        """
        cases = ((None, 100, 1), (1, 1, 1), (1, 7, 7), (1, 8, 8), (1, 9, 8), (10, 10, 1), (10, 11, 2), (10, 1000, 8))
        for limit, queries, dials in cases:
            self.assertEqual(dials, self.dials(limit, queries), (limit, queries))

    def test_room_is_what_the_limit_leaves(self) -> None:
        """
        A connection takes as many queries as it has left; the next ones go over another.
        """
        scene = Scene()
        scene.upstream.per_connection_limit.learn(3)
        scene.connect("a")
        scene.ask("b")
        self.assertEqual(1, pool_of(scene).room())
        scene.ask("c")
        scene.network.settle()
        self.assertEqual((1, 0), (scene.dials, pool_of(scene).room()))
        scene.ask("d")
        scene.network.settle()
        self.assertEqual(2, scene.dials)
        scene.network.accept(scene.server)
        self.assertEqual((["a", "b", "c", "d"], 2), (scene.told.answered_tokens, pool_of(scene).room()))
        self.assertEqual(1, len(scene.server.connections))

    def test_no_other_connection_for_a_minute_after_a_failed_dial(self) -> None:
        """
        A slow upstream is not dialled a second time within 60 s.
        """
        scene = Scene()
        scene.connect("a")
        scene.server.answer = lambda query: None
        scene.ask(*range(20))
        scene.upstream.record_latency(0.5, 1)
        scene.network.refuse(Refused())
        for wait, dials in ((59.9, 2), (0.2, 3)):
            scene.clock.rightNow += wait
            scene.upstream.record_latency(0.5, 1)
            self.assertEqual(dials, scene.dials, wait)


class CloseTests(SynchronousTestCase):
    """
    What is learned from a close by the server.
    """

    def test_close_within_200_ms_of_a_reply_counts_for_the_limit(self) -> None:
        """
        Later it was closed for being idle, which makes no limit.
        """
        for wait, limit in ((0.19, 1), (0.21, None)):
            scene = Scene()
            for token in ("a", "b", "c"):
                scene.connect(token)
                scene.network.advance(wait)
                scene.server.close_connections()
                scene.network.settle()
            self.assertEqual(limit, scene.upstream.per_connection_limit.limit, wait)
            closed = scene.upstream.counters.connections_closed
            self.assertEqual(limit == 1, closed["peer", ConnectionEnd.PEER_CLOSED] == 3, wait)

    def test_connections_dropped_for_another_network_make_no_limit(self) -> None:
        """
        That queries were outstanding on them says nothing of the server.
        """
        scene = Scene()
        for turn in range(3):
            scene.server.answer = ZONE
            scene.connect(turn)
            scene.server.answer = lambda query: None
            scene.ask(f"outstanding {turn}")
            scene.network.settle()
            scene.upstream.network_moved()
            scene.network.settle()
        self.assertIsNone(scene.upstream.per_connection_limit.limit)
        self.assertEqual([f"outstanding {turn}" for turn in range(3)], scene.told.failed_tokens)
