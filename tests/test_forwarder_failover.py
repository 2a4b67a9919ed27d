"""
Errors, slow answers and outages: who is asked besides, and what the client is told.
"""

import dns.edns
import dns.message
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout, Unreachable
from dotproxy.policy.budget import Budget
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener
from dotproxy.testing.zone import TXT, A
from dotproxy.wire.hop import Rebuilt
from tests.test_forwarder import Scene, extended_error, reply_of

QUERY = make_query("www.test.", A)


def error_of(question: tuple[object, bytes, int], rcode: int, *options: dns.edns.Option) -> bytes:
    """
    An upstream's error.
    """
    reply = dns.message.make_response(dns.message.from_wire(question[1]))
    reply.set_rcode(rcode)
    reply.use_edns(0, options=list(options))
    return reply.to_wire()


class ErrorTests(SynchronousTestCase):
    """
    SERVFAIL and REFUSED.
    """

    def answer_with(self, scene: Scene, index: int, rcode: int, *options: dns.edns.Option) -> None:
        """
        Let an upstream answer with an error.
        """
        upstream = scene.upstreams[index]
        upstream.answer(error_of(upstream.asked[0], rcode, *options))

    def test_another_knows_better(self) -> None:
        """
        An error of one upstream is no answer as long as another may have one; it counts against the first.
        """
        for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
            scene = Scene(upstreams=2)
            scene.ask(QUERY)
            self.answer_with(scene, 0, rcode)
            self.assertEqual([], scene.listener.answers)
            scene.upstreams[1].answer(reply_of(scene.upstreams[1].asked[0]))
            self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())
            self.assertEqual((1, 0), (scene.upstreams[0].useless, scene.upstreams[1].useless))

    def test_nobody_knows_better(self) -> None:
        """
        If all say so, or the others say nothing, the client gets what the last one said, and not an error of ours.
        """
        scene = Scene(upstreams=2)
        scene.ask(QUERY)
        self.answer_with(scene, 0, dns.rcode.REFUSED)
        self.answer_with(scene, 1, dns.rcode.REFUSED)
        self.assertEqual(dns.rcode.REFUSED, scene.answer().rcode())
        scene = Scene(upstreams=2)
        scene.ask(QUERY)
        self.answer_with(scene, 0, dns.rcode.REFUSED)
        scene.upstreams[1].fail(Unreachable("connect", "refused"), is_final=True)
        self.assertEqual(dns.rcode.REFUSED, scene.answer().rcode())
        scene = Scene(upstreams=2)
        scene.ask(QUERY)
        self.answer_with(scene, 0, dns.rcode.REFUSED)
        scene.clock.pump([0.1] * 45)
        self.assertEqual([dns.rcode.REFUSED], [answer.rcode() for answer in scene.answers()])

    def test_alone(self) -> None:
        """
        A single upstream's SERVFAIL is asked again, three times in all, if it comes at once (RFC 9520 §3.1); its
        REFUSED is not, nor a SERVFAIL that took it some time.
        """
        scene = Scene()
        scene.ask(QUERY)
        for _ in range(2):
            self.answer_with(scene, 0, dns.rcode.SERVFAIL)
            self.assertEqual([], scene.listener.answers)
        self.answer_with(scene, 0, dns.rcode.SERVFAIL)
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())
        for rcode, wait in ((dns.rcode.REFUSED, 0.0), (dns.rcode.SERVFAIL, 0.4)):
            scene = Scene()
            scene.ask(QUERY)
            scene.clock.advance(wait)
            self.answer_with(scene, 0, rcode)
            self.assertEqual(rcode, scene.answer().rcode())

    def test_bogus(self) -> None:
        """
        SERVFAIL because of broken DNSSEC is the answer: another upstream may not validate (RFC 8914 §4.7).
        """
        scene = Scene(upstreams=2, hop=Rebuilt())
        scene.ask(QUERY)
        self.answer_with(scene, 0, dns.rcode.SERVFAIL, dns.edns.EDEOption(6, "bogus"))
        answer = scene.answer()
        self.assertEqual((dns.rcode.SERVFAIL, (6, "bogus")), (answer.rcode(), extended_error(answer)))
        self.assertEqual([], scene.upstreams[1].asked)

    def test_somebody_may_still_answer(self) -> None:
        """
        An error never wins against a good answer that is still to come.
        """
        scene = Scene(upstreams=2)
        scene.ask(QUERY)
        scene.clock.advance(0.3)
        self.answer_with(scene, 1, dns.rcode.SERVFAIL)
        self.assertEqual([], scene.listener.answers)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_a_long_error(self) -> None:
        """
        An error that was kept is cut to fit like any answer.
        """
        scene = Scene(upstreams=2)
        scene.ask(make_query("big.test.", TXT))
        for index in (0, 1, 0):
            reply = reply_of(scene.upstreams[index].asked[0])
            scene.upstreams[index].answer(reply[:3] + b"\x82" + reply[4:])
        ((octets, _),) = scene.listener.answers
        self.assertLessEqual(len(octets), 1232)


class SlowTests(SynchronousTestCase):
    """
    Answers that take their time.
    """

    def known(self, share: float) -> Scene:
        """
        Two upstreams of which the first is known to answer in 10 ms.
        """
        scene = Scene(upstreams=2, hedging=Budget(share))
        for _ in range(20):
            scene.upstreams[0].latency.note(0.01)
        scene.ask(QUERY)
        scene.clock.advance(1)
        scene.upstreams[0].asked.clear()
        scene.upstreams[1].asked.clear()
        scene.listener.answers.clear()
        return scene

    def test_a_few_are_asked_twice(self) -> None:
        """
        What is slower than nearly all others is asked of another upstream, too; that counts against nobody yet.
        """
        scene = self.known(0.03)
        before = scene.upstreams[0].useless
        scene.ask(QUERY)
        scene.clock.advance(0.04)
        self.assertEqual(0, len(scene.upstreams[1].asked))
        scene.clock.advance(0.03)
        self.assertEqual(1, len(scene.upstreams[1].asked))
        scene.upstreams[1].answer(reply_of(scene.upstreams[1].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())
        self.assertEqual(before, scene.upstreams[0].useless)

    def test_a_few_and_no_more(self) -> None:
        """
        With nothing left to spend they wait until they are overdue.
        """
        scene = self.known(0.03)
        scene.ask(*[QUERY] * 60)
        scene.clock.pump([0.01] * 10)
        asked = len(scene.upstreams[1].asked)
        self.assertTrue(10 < asked < 25, asked)
        scene.clock.pump([0.01] * 20)
        self.assertEqual(60, len(scene.upstreams[1].asked))

    def test_off(self) -> None:
        """
        With hedging off nothing is asked twice before it is overdue.
        """
        scene = self.known(0)
        scene.ask(QUERY)
        scene.clock.pump([0.01] * 20)
        self.assertEqual(0, len(scene.upstreams[1].asked))

    def test_times(self) -> None:
        """
        An upstream is told what its answers take.
        """
        scene = Scene()
        scene.ask(QUERY)
        scene.clock.advance(0.125)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual([0.125], scene.upstreams[0].times)

    def test_a_race(self) -> None:
        """
        All that are not down are asked at once; the first answer counts.
        """
        scene = Scene(upstreams=3, at_once=3)
        scene.upstreams[2].tier = 2
        scene.ask(QUERY)
        self.assertEqual([1, 1, 0], [len(upstream.asked) for upstream in scene.upstreams])
        for upstream in scene.upstreams[1::-1]:
            upstream.answer(reply_of(upstream.asked[0]))
        self.assertEqual([dns.rcode.NOERROR], [answer.rcode() for answer in scene.answers()])


class OutageTests(SynchronousTestCase):
    """
    An upstream that went down a moment ago.
    """

    def test_it_is_waited_for(self) -> None:
        """
        A question that was never sent is asked again, for half its time; then there is SERVFAIL with the reason.
        """
        scene = Scene()
        scene.ask(QUERY)
        for _ in range(4):
            scene.upstreams[0].fail(Unreachable("connect", "refused"))
            self.assertEqual((1, []), (len(scene.upstreams[0].asked), scene.listener.answers))
            scene.clock.advance(0.4)
        scene.clock.advance(0.5)
        scene.upstreams[0].fail(Unreachable("connect", "refused"))
        answer = scene.answer()
        self.assertEqual((dns.rcode.SERVFAIL, 22), (answer.rcode(), extended_error(answer)[0]))

    def test_it_is_back(self) -> None:
        """
        When it is back in time the client never knows.
        """
        scene = Scene()
        scene.ask(QUERY)
        for _ in range(10):
            scene.upstreams[0].fail(Unreachable("connect", "refused"))
            scene.clock.advance(0.1)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_one_that_was_down_for_long(self) -> None:
        """
        Then the failure is final, and the client told at once.
        """
        scene = Scene()
        scene.ask(QUERY)
        scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())

    def test_a_silent_one_counts(self) -> None:
        """
        What was sent, and had no answer, counts as sent: three times and no more (RFC 9520 §3.1).
        """
        scene = Scene()
        listener = RecordingListener()
        scene.ask(QUERY, listener=listener)
        for _ in range(3):
            self.assertEqual([], listener.answers)
            scene.upstreams[0].fail(Timeout("read", "silent"))
        self.assertEqual(1, len(listener.answers))
