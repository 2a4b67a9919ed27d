"""
What is counted of queries: each once, where it was answered from.
"""

import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Unreachable
from dotproxy.telemetry.counters import TCP, UDP, answer_index
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener
from dotproxy.testing.zone import AAAA, TXT, A

from .test_forwarder import OUTSIDER
from .test_forwarder_cache import CachedScene, question


def counted(scene: CachedScene) -> dict[str, int]:
    """
    Return the numbers that are not zero.
    """
    counters = scene.forwarder.counted()
    others = {"prefetches": counters.prefetches, "unanswered": counters.unanswered}
    return {name: number for name, number in {**counters.lookups(), **others}.items() if number}


def answers(scene: CachedScene) -> dict[int, int]:
    """
    Return how many answers there were, by group.
    """
    return {group: count for group, count in enumerate(scene.forwarder.counted().answers) if count}


class CountTests(SynchronousTestCase):
    """
    Queries by where their responses came from, and responses by transport, type and rcode.
    """

    def test_misses_cache_hits_and_packet_cache_hits_are_counted(self) -> None:
        """
        A miss, a hit in the cache, then hits in the packet cache; all are answers over UDP of type A.
        """
        scene = CachedScene()
        scene.know(question(id=1))
        scene.ask(question(id=2))
        scene.ask(question(id=3), question(id=4))
        self.assertEqual({"missed": 1, "fresh": 1, "memo": 2}, counted(scene))
        self.assertEqual({answer_index(UDP, A, 0): 4}, answers(scene))
        self.assertEqual(1, sum(scene.forwarder.counters.upstream_seconds.counts))
        self.assertEqual(3, sum(scene.forwarder.counters.local_seconds.counts))

    def test_hits_are_counted_by_transport_type_and_rcode(self) -> None:
        """
        Each hit counts for its own listener, type and RCODE.
        """
        scene = CachedScene()
        stream = RecordingListener(is_stream=True)
        scene.know(question(), rcode=dns.rcode.NXDOMAIN)
        for _ in range(3):
            scene.ask(question(), listener=stream)
        self.assertEqual(
            {answer_index(UDP, A, dns.rcode.NXDOMAIN): 1, answer_index(TCP, A, dns.rcode.NXDOMAIN): 3}, answers(scene)
        )
        self.assertEqual({"missed": 1, "fresh": 1, "memo": 2}, counted(scene))

    def test_joined_queries_and_their_waits_are_counted(self) -> None:
        """
        Each query that waits for the same response counts, and so does the time it waited.
        """
        scene = CachedScene()
        scene.ask(question(), question())
        scene.ask(question())
        scene.pass_time(0.2)
        scene.reply()
        self.assertEqual({"missed": 1, "joined": 2}, counted(scene))
        self.assertEqual({answer_index(UDP, A, 0): 3}, answers(scene))
        asked = scene.forwarder.counters.upstream_seconds
        self.assertEqual(3, sum(asked.counts))
        self.assertAlmostEqual(0.6, asked.total)

    def test_stale_responses_are_counted(self) -> None:
        """
        Those that get a stale response after 1.8 s, and those that come while the query is still under way.
        """
        scene = CachedScene()
        scene.know(question())
        scene.pass_time(61)
        scene.ask(question(), question())
        scene.pass_time(1.9)
        self.assertEqual(2, len(scene.answers()))
        scene.ask(question())
        self.assertEqual({"missed": 2, "joined": 1, "stale": 3}, counted(scene))
        self.assertEqual({answer_index(UDP, A, 0): 4}, answers(scene))

    def test_failures_and_failure_cache_hits_are_counted(self) -> None:
        """
        A failure is answered with SERVFAIL, and again from the failure cache.
        """
        scene = CachedScene(2)
        scene.ask(question())
        for upstream in scene.upstreams:
            upstream.fail(Unreachable("connect", "no"), is_final=True)
        scene.ask(question())
        self.assertEqual({"missed": 1, "failed_before": 1}, counted(scene))
        self.assertEqual({answer_index(UDP, A, dns.rcode.SERVFAIL): 2}, answers(scene))

    def test_stale_responses_that_replace_failures_are_counted(self) -> None:
        """
        Each client that waits counts.
        """
        scene = CachedScene()
        scene.know(question())
        scene.pass_time(61)
        scene.ask(question(), question())
        scene.upstreams[0].fail(Unreachable("connect", "no"), is_final=True)
        self.assertEqual({"missed": 2, "joined": 1, "stale": 2}, counted(scene))

    def test_later_stale_responses_after_a_failure_are_counted(self) -> None:
        """
        Each later query counts as stale, too.
        """
        scene = CachedScene()
        scene.know(question())
        scene.pass_time(61)
        scene.ask(question())
        scene.upstreams[0].fail(Unreachable("connect", "no"), is_final=True)
        scene.upstreams[0].tier = 0
        scene.ask(question(), question())
        self.assertEqual({"missed": 2, "stale": 3}, counted(scene))

    def test_refresh_is_counted_and_is_no_miss(self) -> None:
        """
        A popular entry that is about to expire is refetched once, without a miss.
        """
        scene = CachedScene()
        scene.know(question())
        scene.pass_time(10)
        scene.ask(question())
        scene.pass_time(45)
        scene.ask(question())
        scene.ask(question())
        self.assertEqual({"missed": 1, "fresh": 2, "memo": 1, "prefetches": 1}, counted(scene))
        scene.reply()
        self.assertEqual({answer_index(UDP, A, 0): 4}, answers(scene))

    def test_local_answers_and_dropped_queries_are_counted(self) -> None:
        """
        A query that is refused or answered locally is no miss and has no type; one without a response counts as silent.
        """
        scene = CachedScene(forwarded=())
        scene.ask(make_query("localhost.", AAAA), make_query("x.invalid.", TXT))
        scene.ask(question(), client=OUTSIDER)
        self.assertEqual(
            {
                answer_index(UDP, 0, 0): 1,
                answer_index(UDP, 0, dns.rcode.NXDOMAIN): 1,
                answer_index(UDP, 0, dns.rcode.REFUSED): 1,
            },
            answers(scene),
        )
        self.assertEqual({}, counted(scene))
        scene.ask(b"short", question()[:2] + b"\x81" + question()[3:])
        self.assertEqual({"unanswered": 2}, counted(scene))
