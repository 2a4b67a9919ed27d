"""
Queries that may end their connection: what is learned of them, and when the upstream itself is checked.
"""

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionGone, Timeout, Unreachable, UpstreamError
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.quarantine import question_key
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.counters import UpstreamCounters
from dotproxy.telemetry.events import Events
from dotproxy.upstream.risky_queries import RiskyQueries
from dotproxy.upstream.settings import Runtime
from tests.upstream.scenes import ZONE, Counting, make_question

GONE = ConnectionGone("read", "gone")


def alone() -> ConnectionGone:
    """
    Return how a connection ended that had one query.
    """
    error = ConnectionGone("read", "gone")
    error.was_alone = True
    return error


class Noted(Events):
    """
    Events that are kept.
    """

    def __init__(self) -> None:
        self.questions: list[bytes] = []

    def question_ended_connection(self, upstream: str, question: bytes) -> None:
        self.questions.append(question)


class RiskyQueriesTests(SynchronousTestCase):
    """
    The test is the upstream whose queries they are, its observer, and the endpoint.
    """

    label = "the upstream"

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.per_connection_limit = PerConnectionLimit()
        self.quota = self.per_connection_limit
        self.is_up = True
        self.heard_at: float | None = None
        self.told: list[Any] = []
        self.dials = 0
        self.events = Noted()
        self.counters = UpstreamCounters()
        dispatcher = SimpleNamespace(
            failed=lambda upstream, tokens, error, *, is_final: self.told.append(("failed", tokens, is_final)),
            replies_received=lambda upstream, answers: self.told.append(("replies", len(answers))),
            is_wanted=lambda token: True,
        )
        observer: Any = self
        self.risky = RiskyQueries(
            observer,
            observer,
            runtime=Runtime(self.clock, self.clock.seconds, Counting(), lambda: 0.0),
            counters=self.counters,
            events=self.events,
        )
        self.risky.bind(dispatcher)

    def connect(self, factory: object) -> "Deferred[Any]":
        self.dials += 1
        return Deferred()

    def note_answer(self) -> None:
        self.told.append("answers")

    def note_down(self, error: UpstreamError, *, silent: bool = False) -> None:
        self.told.append(("down", silent))

    def fail_waiting(self, error: UpstreamError) -> None:
        self.told.append(("fail waiting", type(error)))

    def fail(self, tokens: list[Any], error: UpstreamError) -> None:
        self.told.append(("fail", tokens))

    def lose(self, *questions: Any, error: ConnectionGone | None = None, **changes: Any) -> None:
        given: dict[str, Any] = {"isolation": Isolation.LOST, "answers": 0, "is_unusual": False, **changes}
        self.risky.isolated_lost(list(questions), error or alone(), given.pop("isolation"), **given)

    def holds(self, question: Any) -> bool:
        _, message, end = question
        return self.risky.quarantine.contains(question_key(message, end), self.clock.seconds())

    # Tests.

    def test_query_alone_on_a_lost_connection_is_quarantined(self) -> None:
        """
        Its question is isolated from then on, and logged; the query fails, but not for good.
        """
        question = make_question("bad")
        self.lose(question)
        self.assertTrue(self.holds(question))
        self.assertEqual([question_key(*question[1:])], self.events.questions)
        self.assertEqual([("failed", ["bad"], False)], self.told)

    def test_query_among_others_on_a_lost_connection_is_not_quarantined(self) -> None:
        """
        Neither is an unusual one, for the sake of others of the same name.
        """
        question = make_question("a")
        self.lose(question, make_question("b"), error=GONE)
        self.lose(question, is_unusual=True)
        self.assertFalse(self.holds(question))
        self.assertEqual([], self.events.questions)

    def test_quarantined_query_that_ends_a_connection_fails_for_good(self) -> None:
        """
        It is not sent to this upstream again.
        """
        self.lose(make_question("bad"), isolation=Isolation.KNOWN)
        self.assertEqual([("failed", ["bad"], True)], self.told)

    def test_last_attempt_teaches_no_connection_limit(self) -> None:
        """
        The end is attributed to the question, and not to the number of queries.
        """
        for isolation, limit in ((Isolation.LOST, 5), (Isolation.LAST, None)):
            self.per_connection_limit.learn(5)
            self.lose(make_question("bad"), isolation=isolation)
            self.assertEqual(limit, self.per_connection_limit.limit)

    def test_a_reply_ends_the_quarantine_of_its_question(self) -> None:
        """
        In any spelling; a reply without question, or to another one, ends nothing.
        """
        question = make_question("bad")
        self.lose(question)
        reply = ZONE(question[1])
        assert reply is not None
        for other in (reply[:4] + b"\0\0" + reply[6:], ZONE(make_question("x", "mail.test.")[1]) or b"", reply[:12]):
            self.risky.note_replies([("bad", other)])
            self.assertTrue(self.holds(question), other)
        self.risky.note_replies([("bad", reply.replace(b"www", b"WWW"))])
        self.assertFalse(self.holds(question))

    def test_three_connections_without_a_reply_start_a_check(self) -> None:
        """
        Whether the upstream replies at all is checked once a second at most.
        """
        for _ in range(2):
            self.risky.note_unanswered(GONE)
        self.assertEqual(0, self.dials)
        self.risky.note_unanswered(GONE)
        self.assertEqual(1, self.dials)

    def test_reply_resets_the_count_of_connections_without_a_reply(self) -> None:
        """
        Three in a row are needed.
        """
        for _ in range(2):
            self.risky.note_unanswered(GONE)
        self.risky.note_replies([])
        for _ in range(2):
            self.risky.note_unanswered(GONE)
        self.assertEqual(0, self.dials)

    def test_check_is_made_once_a_second_at_most(self) -> None:
        """
        Counted from the last check.
        """
        checks: list[float] = []
        self.risky.connections.check = lambda: checks.append(self.clock.seconds())  # type: ignore[method-assign]
        for _ in range(30):
            self.risky.note_unanswered(GONE)
            self.clock.advance(0.1)
        self.assertEqual([1000.2, 1001.2, 1002.2], [round(at, 1) for at in checks])

    def test_lost_connection_of_an_upstream_that_is_down_fails_waiting_queries(self) -> None:
        """
        It is reported at once, and waiting queries fail.
        """
        self.is_up = False
        self.risky.note_unanswered(GONE)
        self.assertEqual([("down", True), ("fail waiting", Unreachable)], self.told)

    def test_failed_check_marks_the_upstream_down(self) -> None:
        """
        Unless it replied within the last second.
        """
        error = Timeout("read", "silent")
        for heard_at, down in ((None, True), (998.9, True), (999.0, False), (1000.0, False)):
            self.told.clear()
            self.heard_at = heard_at
            self.risky.isolated_check_failed(error)
            self.assertEqual(down, ("down", True) in self.told, heard_at)
        self.heard_at = None
        self.risky.isolated_replies_received([])
        self.told.clear()
        self.risky.isolated_check_failed(error)
        self.assertEqual([], self.told)

    def test_failed_dial_marks_the_upstream_down_unless_connected(self) -> None:
        """
        It is the upstream's failure if it replies over no other connection.
        """
        error = Unreachable("connect", "refused")
        self.heard_at = 500.0
        self.assertFalse(self.risky.isolated_not_connected(error))
        self.heard_at = None
        self.risky.isolated_replies_received([("a", b"")])
        self.assertFalse(self.risky.isolated_not_connected(error))
        self.clock.advance(1.1)
        self.told.clear()
        self.assertTrue(self.risky.isolated_not_connected(error))
        self.assertEqual([("down", False), ("fail waiting", Unreachable)], self.told)
        self.assertEqual({"connect": 3}, dict(self.counters.connect_failures))

    def test_replies_clear_failures_and_replies_to_checks_are_dropped(self) -> None:
        """
        They show that it replies; those to checks belong to no query.
        """
        self.risky.isolated_replies_received([("a", b"")])
        self.risky.isolated_replies_received([])
        self.assertEqual(["answers", ("replies", 1), "answers"], self.told)
