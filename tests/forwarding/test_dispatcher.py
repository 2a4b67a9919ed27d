"""
The dispatcher: to which upstream a query is sent, when it is sent again, and when that is given up.
"""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import BadReply, ConnectionGone, Unreachable, Untrusted
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.inflight import Query
from dotproxy.forwarding.settings import DispatcherSettings
from dotproxy.policy.budget import Budget
from dotproxy.policy.health import Tier
from dotproxy.policy.retry import Isolation
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import ScriptedUpstream
from dotproxy.testing.zone import A, Zone, address_rdata
from dotproxy.wire.message import NXDOMAIN, REFUSED, SERVFAIL, parse_query
from dotproxy.wire.rewrite import EdnsRewriter

OCTETS = make_query("www.test.", A)
ZONE = Zone({("www.test.", A): [address_rdata("192.0.2.1")]})


def reply(query: bytes, rcode: int = 0) -> bytes:
    """
    Return a reply to a query: an address, or an error without records.
    """
    if not rcode:
        return ZONE(query) or b""
    end = parse_query(query).question_end
    return query[:2] + b"\x81" + bytes([0x80 | rcode]) + b"\0\1\0\0\0\0\0\0" + query[12:end]


class Scene:
    """
    A dispatcher above upstreams in whose place the test answers; the scene is told what became of queries.
    """

    def __init__(self, upstreams: int = 2, **settings: Any) -> None:
        self.clock = Clock()
        self.upstreams = [ScriptedUpstream(f"u{number}") for number in range(upstreams)]
        self.is_worth_a_retry = True
        self.answers: list[tuple[Query, Any, str]] = []
        self.failures: list[tuple[Query, Any]] = []
        self.dispatcher = Dispatcher(
            self.upstreams, self.settings(**settings), clock=self.clock, monotonic=self.clock.seconds
        )
        self.dispatcher.observer = self

    @staticmethod
    def settings(**changes: Any) -> DispatcherSettings:
        given: dict[str, Any] = {"hedging": Budget(0), "query_timeout": 4.0, "attempt_timeout": 1.5, **changes}
        return DispatcherSettings(EdnsRewriter().parse_response, **given)

    # As the owner.

    def resolved(self, answers: list[tuple[Query, Any]], upstream: str) -> None:
        self.answers += [(query, answer, upstream) for query, answer in answers]

    def failed(self, queries: list[tuple[Query, Any]]) -> None:
        self.failures += queries

    def may_retry(self, query: Query) -> bool:
        return self.is_worth_a_retry

    # What happens.

    def ask(self, count: int = 1, order: tuple[int, ...] | None = None, **changes: Any) -> Any:
        """
        Ask; return the query, or all of them if they are several.
        """
        now = self.clock.seconds()
        order = tuple(range(len(self.upstreams))) if order is None else order
        seen = parse_query(OCTETS)
        queries = [Query(OCTETS, seen, OCTETS, order, now, now + self.dispatcher.query_timeout) for _ in range(count)]
        for query in queries:
            for name, value in changes.items():
                setattr(query, name, value)
        self.dispatcher.dispatch(queries, now)
        return queries[0] if count == 1 else queries

    def sent(self) -> list[int]:
        """
        Return how many queries each upstream has and has not answered.
        """
        return [len(upstream.asked) for upstream in self.upstreams]

    def say(self, index: int, rcode: int = 0) -> None:
        """
        Have an upstream reply to the oldest query it has.
        """
        upstream = self.upstreams[index]
        upstream.answer(reply(upstream.asked[0][1], rcode))

    def labels(self) -> list[str]:
        return [label for _, _, label in self.answers]


class AnswerTests(SynchronousTestCase):
    """
    Replies that come.
    """

    def test_the_first_in_order_is_asked(self) -> None:
        """
        All queries of a batch for one upstream go in one call.
        """
        scene = Scene()
        scene.ask(3, order=(1, 0))
        self.assertEqual(([0, 3], [3]), (scene.sent(), scene.upstreams[1].batches))
        self.assertEqual((3, 3), (len(scene.dispatcher), len(list(scene.dispatcher))))

    def test_told_once(self) -> None:
        """
        A query is in flight until its answer is told; what else comes for it is dropped.
        """
        scene = Scene()
        query = scene.ask()
        self.assertTrue(scene.dispatcher.is_wanted(query))
        octets = scene.upstreams[0].asked[0][1]
        scene.say(0)
        self.assertFalse(scene.dispatcher.is_wanted(query))
        scene.dispatcher.replies_received(scene.upstreams[0], [(query, reply(octets))])
        scene.dispatcher.failed(scene.upstreams[0], [query], Unreachable("connect", "no"), is_final=False)
        self.assertEqual(([(query, "u0")], []), ([(told, label) for told, _, label in scene.answers], scene.failures))
        self.assertEqual((0, []), (len(scene.dispatcher), list(scene.dispatcher)))
        self.assertEqual([2], [scene.upstreams[0].counters.answers[0]])

    def test_a_reply_nobody_waits_for_does_not_hide_others(self) -> None:
        """
        Replies that come together are each for themselves.
        """
        scene = Scene(1)
        first, second = scene.ask(2)
        octets = scene.upstreams[0].asked[0][1]
        scene.dispatcher.forget(first)
        answers = [(first, reply(octets)), (second, reply(octets)[:-1]), (second, reply(octets))]
        third = scene.ask()
        scene.dispatcher.replies_received(scene.upstreams[0], [*answers[:1], (third, reply(octets)), *answers[1:2]])
        self.assertEqual([third], [query for query, _, _ in scene.answers])
        self.assertEqual(1, len(second.errors))

    def test_rcodes_are_counted(self) -> None:
        """
        Of each reply, by upstream.
        """
        scene = Scene(1)
        scene.ask(2)
        scene.say(0, NXDOMAIN)
        scene.say(0)
        counts = scene.upstreams[0].counters.answers
        self.assertEqual((1, 1, 2), (counts[0], counts[NXDOMAIN], sum(counts)))

    def test_how_long_it_took(self) -> None:
        """
        It is told of the upstream that was asked first, every 5 ms at most, and counted for each answer.
        """
        scene = Scene(1)
        scene.ask(4)
        scene.clock.advance(0.1)
        scene.say(0)
        self.assertEqual([0.1], scene.upstreams[0].times)
        scene.clock.advance(0.004)
        scene.say(0)
        self.assertEqual(1, len(scene.upstreams[0].times))
        scene.clock.advance(0.001)
        scene.say(0)
        self.assertEqual([0.1, 0.105], [round(took, 6) for took in scene.upstreams[0].times])
        self.assertEqual(3, sum(scene.upstreams[0].counters.answer_seconds.counts))
        self.assertAlmostEqual(0.309, scene.upstreams[0].counters.answer_seconds.total)

    def test_that_of_another_says_nothing(self) -> None:
        """
        When it was sent to a second upstream is not known.
        """
        scene = Scene()
        scene.ask()
        scene.clock.advance(0.3)
        scene.say(1)
        self.assertEqual(([], 0), (scene.upstreams[1].times, sum(scene.upstreams[1].counters.answer_seconds.counts)))

    def test_replies_of_no_use(self) -> None:
        """
        What cannot be read is a failure of that upstream, and another is asked.
        """
        scene = Scene()
        query = scene.ask()
        octets = scene.upstreams[0].asked[0][1]
        scene.upstreams[0].answer(reply(octets)[:-1])
        self.assertEqual([0, 1], scene.sent())
        (error,) = query.errors
        self.assertIsInstance(error, BadReply)
        self.assertEqual(("read", "u0"), (error.phase, error.upstream))
        self.assertIn("an answer of no use: ", error.reason)

    def test_forgotten(self) -> None:
        """
        Nobody waits for it: no answer, no failure, no timer that does anything.
        """
        scene = Scene()
        query = scene.ask()
        scene.dispatcher.forget(query)
        self.assertEqual(0, len(scene.dispatcher))
        scene.clock.pump([1.0] * 5)
        self.assertEqual(([], [1, 0]), (scene.failures, scene.sent()))

    def test_stop(self) -> None:
        """
        What is in flight fails at once, and no timer is left.
        """
        scene = Scene()
        scene.ask(2)
        scene.dispatcher.stop()
        self.assertEqual(["shutting down"] * 2, [error.text for _, error in scene.failures])
        self.assertEqual((0, []), (len(scene.dispatcher), scene.clock.getDelayedCalls()))


class ErrorReplyTests(SynchronousTestCase):
    """
    SERVFAIL and REFUSED: another upstream may know better.
    """

    def test_the_next_is_asked(self) -> None:
        """
        For both codes, and for no other.
        """
        for rcode in (SERVFAIL, REFUSED):
            scene = Scene()
            scene.ask()
            scene.say(0, rcode)
            self.assertEqual(([0, 1], [], 1), (scene.sent(), scene.answers, scene.upstreams[0].useless))
            scene.say(1)
            self.assertEqual(["u1"], scene.labels())
        scene = Scene()
        scene.ask()
        scene.say(0, NXDOMAIN)
        self.assertEqual((["u0"], 0), (scene.labels(), scene.upstreams[0].useless))

    def test_the_last_error_is_told(self) -> None:
        """
        If all upstreams say the same, the last reply is the answer.
        """
        scene = Scene()
        scene.ask()
        scene.say(0, SERVFAIL)
        scene.clock.advance(0.3)
        scene.say(1, REFUSED)
        ((_, answer, label),) = scene.answers
        self.assertEqual((REFUSED, "u1"), (answer.rcode, label))

    def test_a_quick_servfail_is_asked_again(self) -> None:
        """
        Within a quarter of a second; a slower one was an effort, and REFUSED is meant.
        """
        for took, rcode, asked_again in (
            *((0.0, SERVFAIL, True), (0.24, SERVFAIL, True), (0.25, SERVFAIL, False)),
            *((0.0, REFUSED, False), (0.24, REFUSED, False)),
        ):
            scene = Scene(1)
            scene.ask()
            scene.clock.advance(took)
            scene.say(0, rcode)
            self.assertEqual([int(asked_again)], scene.sent(), (took, rcode))

    def test_three_times_at_most(self) -> None:
        """
        RFC 9520 §3.1.
        """
        scene = Scene(1)
        scene.ask()
        for _ in range(3):
            self.assertEqual([1], scene.sent())
            scene.say(0, SERVFAIL)
        self.assertEqual(([0], ["u0"]), (scene.sent(), scene.labels()))

    def test_not_after_half_of_the_time(self) -> None:
        """
        Half of the query's time has to be left for another upstream: 2 s of 4.
        """
        for took, sent in ((2.0, [0, 1]), (2.1, [0, 0])):
            scene = Scene(attempt_timeout=4.0)
            scene.upstreams[0].latency.note(4.0)  # so that the other is not asked for being overdue
            scene.dispatcher.apply_settings(scene.upstreams, scene.settings(attempt_timeout=4.0))
            scene.ask()
            scene.clock.advance(took)
            self.assertEqual([1, 0], scene.sent())
            scene.say(0, SERVFAIL)
            self.assertEqual(sent, scene.sent(), took)

    def test_another_that_may_still_answer_is_waited_for(self) -> None:
        """
        An error is told when nobody else is to answer any more.
        """
        scene = Scene(2, at_once=2)
        scene.ask()
        self.assertEqual([1, 1], scene.sent())
        scene.say(0, REFUSED)
        self.assertEqual([], scene.answers)
        scene.upstreams[1].fail(Unreachable("connect", "no"), is_final=True)
        ((_, answer, label),) = scene.answers
        self.assertEqual((REFUSED, "u0"), (answer.rcode, label))


class FailureTests(SynchronousTestCase):
    """
    Upstreams that fail.
    """

    def test_the_next_is_asked(self) -> None:
        """
        And told of if none is left, with the errors of all.
        """
        scene = Scene()
        query = scene.ask()
        scene.upstreams[0].fail(Untrusted("verify", "wrong name"), is_final=True)
        self.assertEqual([0, 1], scene.sent())
        scene.upstreams[1].fail(Untrusted("verify", "expired"), is_final=True)
        ((failed, error),) = scene.failures
        self.assertIs(query, failed)
        self.assertEqual("u0: verify: wrong name; u1: verify: expired", error.text)

    def test_an_upstream_is_told_of_once(self) -> None:
        """
        Its latest error replaces the one before.
        """
        scene = Scene(1)
        query = scene.ask()
        scene.upstreams[0].fail(ConnectionGone("read", "first"))
        scene.upstreams[0].fail(ConnectionGone("read", "second"))
        self.assertEqual(["second"], [error.reason for error in query.errors])

    def test_what_was_not_sent_is_no_attempt(self) -> None:
        """
        It waits for the upstream to be back for half of its time, and no longer.
        """
        scene = Scene(1)
        query = scene.ask()
        for _ in range(5):
            scene.upstreams[0].fail(Unreachable("connect", "no"))
        self.assertEqual((1, [1]), (len(query.attempts), scene.sent()))
        scene.clock.advance(1.99)
        scene.upstreams[0].fail(Unreachable("connect", "no"))
        self.assertEqual([1], scene.sent())
        scene.clock.advance(0.02)
        scene.upstreams[0].fail(Unreachable("connect", "no"))
        self.assertEqual(([0], 1), (scene.sent(), len(scene.failures)))

    def test_what_was_sent_counts(self) -> None:
        """
        Three connections that ended are the most, the later ones on connections of their own.
        """
        scene = Scene(1)
        query = scene.ask()
        isolations = []
        for _ in range(3):
            isolations += scene.upstreams[0].isolations
            scene.upstreams[0].fail(ConnectionGone("read", "gone"))
        self.assertEqual([Isolation.NONE, Isolation.LOST, Isolation.LAST], isolations)
        self.assertEqual((3, 1), (query.lost_connections, len(scene.failures)))

    def test_one_sent_twice_over_a_connection_is_sent_again_once(self) -> None:
        """
        Both are outstanding no more.
        """
        scene = Scene()
        query = scene.ask()
        query.attempts, query.awaiting = (0, 0), (0, 0)
        scene.upstreams[0].asked *= 2
        scene.upstreams[0].fail(ConnectionGone("read", "gone"))
        self.assertEqual(([0, 1], 1), (scene.sent(), query.lost_connections))
        self.assertEqual((1,), query.awaiting)

    def test_those_apart_go_after_those_that_are_not(self) -> None:
        """
        Unusual queries are sent after ordinary ones.
        """
        scene = Scene(1)
        calls: list[tuple[int, bool]] = []
        scene.upstreams[0].send_isolated = (  # type: ignore[method-assign]
            lambda questions, isolation, *, is_background: calls.append((len(questions), is_background))
        )
        odd = scene.ask(2, is_unusual=True, is_simple=False)
        even = scene.ask()
        gone = ConnectionGone("read", "gone")
        scene.dispatcher.failed(scene.upstreams[0], [*odd, even], gone, is_final=False)
        self.assertEqual([(2, True), (1, False), (2, True)], calls)


class TimeTests(SynchronousTestCase):
    """
    Queries without a reply.
    """

    def test_overdue_after_a_quarter_of_a_second(self) -> None:
        """
        Where nothing is known of the upstream: another is asked, and it counts as late.
        """
        scene = Scene()
        scene.ask()
        scene.clock.advance(0.24)
        self.assertEqual([1, 0], scene.sent())
        scene.clock.advance(0.02)
        self.assertEqual([1, 1], scene.sent())
        upstream = scene.upstreams[0]
        self.assertEqual((1, 1, 1), (upstream.suspicions, upstream.useless, upstream.counters.retries))

    def test_at_its_deadline_it_fails(self) -> None:
        """
        4 s after it was asked, whatever is still to answer.
        """
        scene = Scene()
        query = scene.ask()
        scene.clock.pump([0.1] * 39)
        self.assertEqual([], scene.failures)
        scene.clock.pump([0.1] * 2)
        ((failed, error),) = scene.failures
        self.assertIs(query, failed)
        self.assertEqual("u0: read: no answer in time; u1: read: no answer in time", error.text)
        self.assertEqual([], scene.clock.getDelayedCalls())

    def test_attempts(self) -> None:
        """
        An upstream that answers others is asked again after 1.5 s; if it does not answer any, it is not.
        """
        for is_responsive, sends in ((True, 2), (False, 1)):
            scene = Scene(1)
            scene.upstreams[0].is_lively = is_responsive
            scene.ask()
            scene.clock.pump([0.05] * 6)
            self.assertEqual([sends], scene.sent(), is_responsive)

    def test_one_that_is_not_worth_a_retry(self) -> None:
        """
        The owner says so.
        """
        scene = Scene()
        scene.is_worth_a_retry = False
        scene.upstreams[0].is_lively = True
        scene.ask()
        scene.clock.pump([0.05] * 6)
        self.assertEqual([1, 0], scene.sent())

    def test_an_upstream_is_suspected_once_for_all(self) -> None:
        """
        However many queries are overdue.
        """
        scene = Scene()
        scene.ask(5)
        scene.clock.advance(0.3)
        upstream = scene.upstreams[0]
        self.assertEqual((1, 5, 5), (upstream.suspicions, upstream.useless, upstream.counters.retries))
        self.assertEqual([5, 5], scene.sent())

    def test_a_usually_slow_upstream(self) -> None:
        """
        Overdue is twice what nearly all of its answers take, the attempt timeout at most.
        """
        for usual, overdue in ((0.4, 0.8), (5.0, 1.5)):
            scene = Scene()
            scene.upstreams[0].latency.note(usual)
            scene.dispatcher.apply_settings(scene.upstreams, scene.settings())
            scene.ask()
            scene.clock.advance(overdue - 0.02)
            self.assertEqual([1, 0], scene.sent(), usual)
            scene.clock.advance(0.04)
            self.assertEqual([1, 1], scene.sent(), usual)

    def test_a_slow_query_is_told_of_its_upstream(self) -> None:
        """
        When it was asked, and how long it is until it is overdue: that is when a silent connection is suspected.
        """
        scene = Scene(hedging=Budget(1.0))
        scene.upstreams[0].latency.note(0.1)
        scene.dispatcher.apply_settings(scene.upstreams, scene.settings(hedging=Budget(1.0)))
        watched: list[tuple[float, float]] = []
        scene.upstreams[0].watch = (  # type: ignore[method-assign]
            lambda since, seconds: watched.append((since, round(seconds, 1)))
        )
        scene.clock.advance(7.0)
        scene.ask()
        scene.clock.advance(0.12)
        self.assertEqual([(7.0, 0.1)], watched)

    def test_one_timer(self) -> None:
        """
        However many queries there are.
        """
        scene = Scene()
        scene.ask(3)
        scene.clock.advance(0.1)
        scene.ask(3)
        self.assertEqual(1, len(scene.clock.getDelayedCalls()))

    def test_down_upstreams_come_last(self) -> None:
        """
        One that is down is asked if there is no other.
        """
        scene = Scene()
        scene.upstreams[0].tier = Tier.DOWN
        scene.ask()
        self.assertEqual([0, 1], scene.sent())
        scene.upstreams[1].tier = Tier.DOWN
        scene.ask()
        self.assertEqual([1, 2], scene.sent())


class HedgeTests(SynchronousTestCase):
    """
    Queries that are slower than nearly all others.
    """

    def scene(self, share: float = 1.0) -> Scene:
        scene = Scene(hedging=Budget(share))
        for upstream in scene.upstreams:
            upstream.latency.note(0.1)
        scene.dispatcher.apply_settings(scene.upstreams, scene.settings(hedging=Budget(share)))
        return scene

    def test_asked_elsewhere_too(self) -> None:
        """
        After what nearly all answers take; it counts as a hedge, and not as late.
        """
        scene = self.scene()
        scene.ask()
        scene.clock.advance(0.08)
        self.assertEqual([1, 0], scene.sent())
        scene.clock.advance(0.04)
        self.assertEqual([1, 1], scene.sent())
        upstream = scene.upstreams[0]
        self.assertEqual((1, 0, 0), (upstream.counters.hedges, upstream.counters.retries, upstream.useless))

    def test_overdue_it_is_late_all_the_same(self) -> None:
        """
        A quarter of a second after it was asked, once.
        """
        scene = self.scene()
        scene.ask()
        scene.clock.pump([0.05] * 4)
        self.assertEqual(0, scene.upstreams[0].useless)
        scene.clock.pump([0.05] * 10)
        self.assertEqual((1, 1), (scene.upstreams[0].useless, scene.upstreams[0].counters.retries))

    def test_not_where_the_other_is_slow(self) -> None:
        """
        Only an upstream that is good is asked for that.
        """
        scene = self.scene()
        scene.upstreams[1].tier = Tier.SLOW
        scene.ask()
        scene.clock.advance(0.15)
        self.assertEqual(([1, 0], 0), (scene.sent(), scene.upstreams[0].counters.hedges))

    def test_within_its_budget(self) -> None:
        """
        20 at once, then the share of what is asked.
        """
        scene = self.scene(0.1)
        scene.ask(50)
        scene.clock.advance(0.15)
        self.assertEqual(([50, 20], 20), (scene.sent(), scene.upstreams[0].counters.hedges))


class SettingsTests(SynchronousTestCase):
    """
    A reload.
    """

    def test_timeouts(self) -> None:
        """
        They are for what is asked from then on; an attempt takes no longer than the query.
        """
        scene = Scene()
        scene.dispatcher.apply_settings(scene.upstreams, scene.settings(query_timeout=1.0, attempt_timeout=9.0))
        self.assertEqual(1.0, scene.dispatcher.query_timeout)
        self.assertEqual(1.0, scene.settings(query_timeout=1.0, attempt_timeout=9.0).longest_attempt)
        self.assertEqual(1.5, scene.settings().longest_attempt)
        scene.ask()
        scene.clock.pump([0.1] * 11)
        self.assertEqual(1, len(scene.failures))

    def test_attempts(self) -> None:
        """
        The new attempt timeout is for what is asked from then on.
        """
        scene = Scene()
        scene.upstreams[0].latency.note(9.0)
        scene.dispatcher.apply_settings(scene.upstreams, scene.settings(attempt_timeout=0.5))
        scene.ask()
        scene.clock.advance(0.48)
        self.assertEqual([1, 0], scene.sent())
        scene.clock.advance(0.04)
        self.assertEqual([1, 1], scene.sent())

    def test_new_upstreams(self) -> None:
        """
        They are asked; one that has left may still answer what it was asked.
        """
        scene = Scene(1)
        scene.ask()
        scene.upstreams.append(ScriptedUpstream("new"))
        scene.dispatcher.apply_settings(scene.upstreams[1:], scene.settings())
        scene.ask(order=(1,))
        self.assertEqual([1, 1], scene.sent())
        scene.clock.advance(0.1)
        scene.say(0)
        scene.say(1)
        self.assertEqual(["u0", "new"], scene.labels())
        self.assertEqual([0.1], scene.upstreams[1].times)
