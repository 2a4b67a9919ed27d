"""
What workers tell each other.
"""

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.failures import FailureCache
from dotproxy.errors import ConnectionGone, Incompatible, Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.quarantine import Quarantine
from dotproxy.service.workers.findings import MAX_BATCH, Finding, SharedEvents, learn
from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.parsed_response import ParsedResponse

KEY = b"\3www\4test\0\0\1\0\1\0"
QUESTION = KEY[:-1]
ANSWER = ParsedResponse(b"\x81\x82\0\1\0\0\0\0", 0, b"", (), 1, b"\0\17\0\2\0\6", 26)


class Upstream:
    """
    What is told of one.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.quarantine = Quarantine()
        self.per_connection_limit = PerConnectionLimit()
        self.told: list[Any] = []

    def learn_down(self, error: UpstreamError) -> None:
        """
        Called by ``learn``.
        """
        self.told.append(error)

    def learn_up(self) -> None:
        """
        Called by ``learn``.
        """
        self.told.append("up")


class FindingTests(SynchronousTestCase):
    """
    From one worker to another.
    """

    def setUp(self) -> None:
        """
        One that finds, one that learns.
        """
        self.clock = Clock()
        self.sent: list[list[Finding]] = []
        self.events = SharedEvents(self.sent.append, debug=False, clock=self.clock)
        self.upstream = Upstream("one")
        self.failures = FailureCache()

    def carry(self) -> None:
        """
        Carry what was found, as octets.
        """
        self.clock.advance(1)
        for found in self.sent:
            carried = json.loads(json.dumps(found))
            learn(carried, [self.upstream], self.failures, monotonic=lambda: 5.0, boottime=lambda: 7.0)
        self.sent.clear()

    def test_cached_failures_are_shared(self) -> None:
        """
        What could not be answered is not asked again by another either, until it is answered.
        """
        mine = FailureCache(self.events)
        for what in (ExtendedError(23, "one: read: it broke"), ANSWER):
            mine.add(KEY, what, 0.0)
            self.carry()
            failure = self.failures.get(KEY)
            assert failure is not None
            self.assertEqual((what, 12.0), (failure.what, failure.until))
            mine.remove(KEY)
            self.carry()
            self.assertIsNone(self.failures.get(KEY))
        mine.remove(KEY)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_upstream_failures_are_shared_with_reason_and_kind(self) -> None:
        """
        That one failed is told with the reason and its kind, so that what lasts is known to last.
        """
        errors = [
            Unreachable("connect", "connection refused"),
            Untrusted("verify", "the certificate has expired"),
            Incompatible("tls", "the handshake failed: wrong version number"),
            Timeout("tls", "the handshake took more than 3 s"),
        ]
        for error in errors:
            self.events.dial_failed("one", error)
        self.events.dial_failed("one", ConnectionGone("read", "the connection broke"))
        self.events.upstream_came_up("one", 1.0, 2)
        self.carry()
        *learned, up = self.upstream.told
        self.assertEqual([type(error) for error in errors] + [Unreachable], [type(error) for error in learned])
        self.assertEqual([str(error) for error in errors], [str(error)[5:] for error in learned[:4]])
        self.assertEqual("up", up)

    def test_quarantine_and_connection_limits_are_shared(self) -> None:
        """
        One that ends connections is kept apart by all, and how many a connection takes is known to all.
        """
        self.events.question_ended_connection("one", QUESTION)
        PerConnectionLimit(lambda limit: self.events.query_limit_changed("one", limit)).learn(5)
        self.events.query_limit_changed("one", 5)
        self.carry()
        self.assertTrue(self.upstream.quarantine.contains(QUESTION, 6.0))
        self.assertEqual(5, self.upstream.per_connection_limit.limit)
        self.events.query_limit_changed("one", None)
        self.carry()
        self.assertIsNone(self.upstream.per_connection_limit.limit)

    def test_findings_about_unknown_upstreams_are_ignored(self) -> None:
        """
        What is about an upstream that is not ours is passed over.
        """
        self.events.dial_failed("another", Unreachable("connect", "connection refused"))
        self.carry()
        self.assertEqual([], self.upstream.told)

    def test_findings_are_batched_and_bounded(self) -> None:
        """
        What is found together is told together, and only so much of it.
        """
        for _ in range(5 * MAX_BATCH):
            self.events.question_ended_connection("one", QUESTION)
        self.clock.advance(1)
        self.assertEqual([MAX_BATCH], [len(found) for found in self.sent])
