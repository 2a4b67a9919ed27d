"""
The life of one query against the clock, to the end, and in any order of events.
"""

import dns.rcode
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import BadReply, ConnectionGone, Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.policy.retry import Isolation
from dotproxy.testing.client import make_query
from dotproxy.wire.rrtypes import A
from tests.forwarding.test_forwarder import Scene, extended_error, reply_of


class TimeTests(SynchronousTestCase):
    """
    Deadlines.
    """

    def test_unanswered_query_gets_servfail_at_the_deadline(self) -> None:
        """
        It has EDE 23, and no timer is left.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        for _ in range(398):
            scene.clock.advance(0.01)
        self.assertEqual([], scene.listener.answers)
        for _ in range(5):
            scene.clock.advance(0.01)
        self.assertEqual((23, "u0: read: no answer in time"), extended_error(scene.answer()))
        self.assertEqual(([], 0), (scene.clock.getDelayedCalls(), scene.forwarder.outstanding))

    def test_overdue_query_is_sent_to_the_next_upstream(self) -> None:
        """
        After a quarter of a second the upstream is suspected, and the next one asked; the first answer wins, the
        second goes nowhere.
        """
        scene = Scene(upstreams=2)
        scene.ask(make_query("www.test.", A))
        scene.clock.advance(0.2)
        self.assertEqual((0, 0), (scene.upstreams[0].suspicions, len(scene.upstreams[1].asked)))
        scene.clock.advance(0.1)
        self.assertEqual((1, 1), (scene.upstreams[0].suspicions, len(scene.upstreams[1].asked)))
        self.assertEqual((1, 0), (scene.upstreams[0].useless, scene.upstreams[1].useless))
        for upstream in reversed(scene.upstreams):
            upstream.answer(reply_of(upstream.asked[0]))
        self.assertEqual(1, len(scene.listener.answers))

    def test_response_after_three_seconds_is_passed_on(self) -> None:
        """
        An upstream that takes three seconds still has its response used.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        scene.clock.pump([0.5] * 7)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_response_after_the_deadline_is_dropped(self) -> None:
        """
        No client gets two responses.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        scene.clock.pump([0.5] * 9)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual([dns.rcode.SERVFAIL], [answer.rcode() for answer in scene.answers()])

    def test_overdue_query_is_resent_to_a_responsive_upstream(self) -> None:
        """
        If the upstream replies to others, the query or its reply was lost, and it is sent once more.
        """
        scene = Scene()
        scene.upstreams[0].is_lively = True
        scene.ask(make_query("www.test.", A))
        scene.clock.advance(1.5)
        self.assertEqual(2, len(scene.upstreams[0].asked))

    def test_timer_ends_with_the_last_query(self) -> None:
        """
        Without queries in flight there is no timer.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        scene.clock.advance(1.5)
        self.assertEqual([], scene.clock.getDelayedCalls())


class TwiceTests(SynchronousTestCase):
    """
    A question that was asked twice over one connection.
    """

    def test_query_sent_twice_is_retried_once_when_the_connection_ends(self) -> None:
        """
        When the connection ends it is retried once.
        """
        scene = Scene()
        scene.upstreams[0].is_lively = True
        scene.ask(make_query("www.test.", A))
        scene.clock.advance(1.5)
        self.assertEqual(2, len(scene.upstreams[0].asked))
        scene.upstreams[0].fail(ConnectionGone("read", "the upstream closed the connection"))
        self.assertEqual([Isolation.LAST], scene.upstreams[0].isolations)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual([dns.rcode.NOERROR], [answer.rcode() for answer in scene.answers()])


class StopTests(SynchronousTestCase):
    """
    The end.
    """

    def test_stop_ends_the_drain(self) -> None:
        """
        Stopping ends the drain, even if queries are in flight.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        scene.forwarder.shares.in_flight += 1
        drained = scene.forwarder.drain()
        self.assertNoResult(drained)
        scene.forwarder.stop()
        self.successResultOf(drained)

    def test_drain_ends_with_the_last_query(self) -> None:
        """
        The drain is done when the last query in flight is answered.
        """
        scene = Scene()
        self.successResultOf(scene.forwarder.drain())
        scene.ask(make_query("www.test.", A), make_query("www.test.", A, ident=2))
        drained = scene.forwarder.drain()
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertNoResult(drained)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.successResultOf(drained)

    def test_stop_answers_servfail_and_leaves_no_timer(self) -> None:
        """
        Queries in flight get SERVFAIL, and no timer stays.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        drained = scene.forwarder.drain()
        scene.forwarder.stop()
        self.successResultOf(drained)
        self.assertEqual((0, "shutting down"), extended_error(scene.answer()))
        self.assertEqual([], scene.clock.getDelayedCalls())


ERRORS: list[tuple[UpstreamError, bool]] = [
    (Unreachable("connect", "connection refused"), True),
    (Untrusted("verify", "the certificate has expired"), True),
    (ConnectionGone("read", "the connection broke"), False),
    (Timeout("read", "silent"), False),
    (BadReply("read", "rubbish"), False),
]


class AnySequenceTests(SynchronousTestCase):
    """
    Whatever happens, in whatever order.
    """

    @given(st.data())
    def test_every_query_is_answered_exactly_once(self, data: st.DataObject) -> None:
        """
        Any interleaving of queries, replies, failures and time: each query gets one response, by its deadline.
        """
        scene = Scene(upstreams=data.draw(st.integers(1, 3)))
        sent: dict[int, float] = {}
        answered: dict[int, float] = {}

        def note() -> None:
            for octets, _ in scene.listener.answers:
                ident = int.from_bytes(octets[:2], "big")
                self.assertNotIn(ident, answered)
                answered[ident] = scene.clock.seconds()
            scene.listener.answers.clear()

        for _ in range(data.draw(st.integers(1, 40))):
            upstream = data.draw(st.sampled_from(scene.upstreams))
            step = data.draw(st.sampled_from(["ask", "answer", "answer", "fail", "wait", "flip"]))
            if step == "ask":
                idents = range(len(sent), len(sent) + data.draw(st.integers(1, 3)))
                sent |= dict.fromkeys(idents, scene.clock.seconds())
                scene.ask(*[make_query("www.test.", A, ident=ident) for ident in idents])
            elif step == "answer" and upstream.asked:
                index = data.draw(st.integers(0, len(upstream.asked) - 1))
                upstream.answer(reply_of(upstream.asked[index]), index)
            elif step == "fail" and upstream.asked:
                error, is_final = data.draw(st.sampled_from(ERRORS))
                failure = type(error)(error.phase, error.reason)
                if isinstance(failure, ConnectionGone):
                    failure.was_alone = data.draw(st.booleans())
                upstream.fail(failure, is_final=is_final)
            elif step == "wait":
                scene.clock.advance(data.draw(st.sampled_from([0.01, 0.3, 1.5, 2.0])))
            elif step == "flip":
                upstream.tier = 2 - upstream.tier
                upstream.is_lively = data.draw(st.booleans())
            note()
        for _ in range(100):
            scene.clock.advance(0.05)
            note()
        self.assertEqual(sorted(sent), sorted(answered))
        self.assertEqual((0, []), (scene.forwarder.outstanding, scene.clock.getDelayedCalls()))
        for ident, at in answered.items():
            self.assertLessEqual(at - sent[ident], 4.0 + 2.1)
