"""
Errors, slow answers and outages: who is asked besides, and what the client is told.
"""

import dns.edns
import dns.flags
import dns.message
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout, Unreachable
from dotproxy.policy.budget import Budget
from dotproxy.policy.retry import Isolation
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener
from dotproxy.wire.edns import opt_record
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.rrtypes import TXT, A
from tests.forwarding.test_forwarder import Scene, extended_error, reply_of

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
        scene = Scene(upstreams=2, rewriter=EdnsRewriter())
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

    def test_each_waits_for_its_own_time(self) -> None:
        """
        Of two that fail together the one that has waited for half its time is told, and the other goes on waiting.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A, ident=1))
        scene.clock.advance(1.9)
        scene.ask(make_query("www.test.", A, ident=2))
        scene.clock.advance(0.15)
        scene.upstreams[0].fail(Unreachable("connect", "refused"))
        self.assertEqual([(1, dns.rcode.SERVFAIL)], [(answer.id, answer.rcode()) for answer in scene.answers()])
        self.assertEqual(1, len(scene.upstreams[0].asked))

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


class NoRoomTests(SynchronousTestCase):
    """
    An answer that has no room for an OPT of ours beside its records (RFC 1035 §4.2.2: 65,535 octets).
    """

    def truncate(self, scene: Scene, index: int = 0) -> bytes:
        """
        Let an upstream answer with TC and no records; return what it was asked.
        """
        upstream = scene.upstreams[index]
        sent = upstream.asked[0][1]
        reply = dns.message.make_response(dns.message.from_wire(sent))
        reply.flags |= dns.flags.TC
        upstream.answer(reply.to_wire())
        return sent

    def test_it_is_asked_for_without_an_opt(self) -> None:
        """
        The same upstream is asked again, without an OPT, and the client gets all there is, whichever transport and
        EDNS it has (RFC 6891 §7: no OPT in the question, none in the answer).
        """
        scene = Scene(upstreams=2, rewriter=EdnsRewriter())
        stream = RecordingListener(is_stream=True)
        scene.ask(QUERY)
        scene.ask(QUERY, listener=stream)
        first = self.truncate(scene)
        self.assertEqual(([], []), (scene.listener.answers, scene.upstreams[1].asked))
        ((_, again, end),) = scene.upstreams[0].asked
        self.assertEqual((first[:10] + b"\0\0" + QUERY[12:end], len(QUERY) - 11), (again, end))
        query = make_query("www.test.", A)
        room = 65535 - end
        record = b"\xc0\x0c\xff\0\0\1\0\0\0\0" + (room - 12).to_bytes(2, "big") + b"x" * (room - 12)
        reply = again[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end] + record
        scene.upstreams[0].answer(reply)
        ((octets, _),) = stream.answers
        self.assertEqual(reply[2:], octets[2:])
        cut = scene.answer()
        self.assertEqual((dns.flags.TC, 0), (cut.flags & dns.flags.TC, cut.edns))

    def test_with_dnssec_it_is_asked_for_with_less(self) -> None:
        """
        DO is said in an OPT: the question is asked again with one that holds nothing else, and no further, since
        without signatures the answer would be another (RFC 3225 §3).
        """
        query = dns.message.make_query("www.test.", "A", want_dnssec=True).to_wire()
        scene = Scene(rewriter=EdnsRewriter(), attempt_timeout=1.0)
        scene.ask(query)
        first = self.truncate(scene)
        end = len(query) - 11
        again = first[:end] + opt_record(1232, 0, 0x8000)
        self.assertEqual([again], [sent for _, sent, _ in scene.upstreams[0].asked])
        self.assertEqual(again, self.truncate(scene))
        self.assertEqual([again], [sent for _, sent, _ in scene.upstreams[0].asked])
        self.truncate(scene)
        self.assertIn("truncated", extended_error(scene.answer())[1])

    def test_three_times_and_no_more(self) -> None:
        """
        One that truncates everything is asked three times, as any other (RFC 9520 §3.1); then the other is asked, without
        an OPT as well.
        """
        scene = Scene(upstreams=2, rewriter=EdnsRewriter())
        scene.ask(QUERY)
        sent = [self.truncate(scene)]
        for index in (0, 1, 1, 0, 1):
            self.assertEqual(1, len(scene.upstreams[index].asked), sent)
            sent.append(self.truncate(scene, index))
        self.assertEqual(2, len(set(sent)))
        self.assertEqual([[], []], [upstream.asked for upstream in scene.upstreams])
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())

    def test_a_batch_of_them(self) -> None:
        """
        Those that come together are asked again together, and what came with them is answered at once.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(*[make_query(name, A, ident=n) for n, name in enumerate(("www.test.", "a.test.", "b.test."))])
        upstream = scene.upstreams[0]
        asked, upstream.asked = upstream.asked, []
        replies = [(token, reply_of((token, octets, end))) for token, octets, end in asked]
        cut = [(token, reply[:2] + bytes((reply[2] | 2,)) + reply[3:]) for token, reply in replies[1:]]
        upstream.observer.replies_received(upstream, [replies[0], *cut])
        self.assertEqual([0], [answer.id for answer in scene.answers()])
        self.assertEqual([3, 2], upstream.batches)
        for question in list(upstream.asked):
            upstream.answer(reply_of(question))
        self.assertEqual([1, 2], [answer.id for answer in scene.answers()])

    def test_on_a_connection_of_its_own(self) -> None:
        """
        A question that was sent apart is sent apart again.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(make_query("www.test.", A, ident=1), QUERY[:2] + b"\0" + QUERY[3:])
        upstream = scene.upstreams[0]
        self.assertEqual([Isolation.NONE, Isolation.UNUSUAL], upstream.isolations)
        for _ in range(2):
            self.truncate(scene)
        self.assertEqual([Isolation.NONE, Isolation.UNUSUAL], upstream.isolations)
        self.assertEqual([1, 0], [question[1][2] for question in upstream.asked])

    def test_it_has_time(self) -> None:
        """
        It is overdue as long after it was asked again as it would have been the first time; and a client whose time is
        over hears of it.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(QUERY)
        scene.clock.advance(0.2)
        self.truncate(scene)
        scene.clock.advance(0.2)
        self.assertEqual(0, scene.upstreams[0].suspicions)
        scene.clock.advance(0.1)
        self.assertEqual(1, scene.upstreams[0].suspicions)
        scene.clock.pump([0.5] * 8)
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())

    def test_nobody_waits_any_more(self) -> None:
        """
        A truncated answer that comes too late is dropped.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(QUERY)
        scene.clock.pump([0.5] * 9)
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())
        while scene.upstreams[0].asked:
            self.truncate(scene)
        self.assertEqual([], scene.listener.answers)

    def test_a_truncated_answer_of_a_transparent_proxy(self) -> None:
        """
        It is the client's own OPT that has no room: it gets what the upstream says.
        """
        scene = Scene()
        scene.ask(QUERY)
        self.truncate(scene)
        self.assertTrue(scene.answer().flags & dns.flags.TC)
