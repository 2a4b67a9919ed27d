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

    def test_error_response_is_retried_at_another_upstream(self) -> None:
        """
        An error response is not passed on while another upstream may respond; it counts against the first.
        """
        for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
            scene = Scene(upstreams=2)
            scene.ask(QUERY)
            self.answer_with(scene, 0, rcode)
            self.assertEqual([], scene.listener.answers)
            scene.upstreams[1].answer(reply_of(scene.upstreams[1].asked[0]))
            self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())
            self.assertEqual((1, 0), (scene.upstreams[0].useless, scene.upstreams[1].useless))

    def test_last_error_response_is_passed_on(self) -> None:
        """
        If all upstreams respond with errors, or the others time out, the client gets the last error response.
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

    def test_quick_servfail_of_a_single_upstream_is_retried_twice(self) -> None:
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

    def test_dnssec_servfail_is_passed_on_without_a_retry(self) -> None:
        """
        SERVFAIL for broken DNSSEC is the response: another upstream may not validate (RFC 8914 §4.7).
        """
        scene = Scene(upstreams=2, rewriter=EdnsRewriter())
        scene.ask(QUERY)
        self.answer_with(scene, 0, dns.rcode.SERVFAIL, dns.edns.EDEOption(6, "bogus"))
        answer = scene.answer()
        self.assertEqual((dns.rcode.SERVFAIL, (6, "bogus")), (answer.rcode(), extended_error(answer)))
        self.assertEqual([], scene.upstreams[1].asked)

    def test_error_response_waits_for_the_other_upstream(self) -> None:
        """
        An error response is not passed on while another upstream has the query.
        """
        scene = Scene(upstreams=2)
        scene.ask(QUERY)
        scene.clock.advance(0.3)
        self.answer_with(scene, 1, dns.rcode.SERVFAIL)
        self.assertEqual([], scene.listener.answers)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_cached_error_is_truncated_to_the_clients_size(self) -> None:
        """
        A cached error is truncated like any response.
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

    def test_slow_query_is_hedged(self) -> None:
        """
        A query slower than nearly all others is sent to a second upstream; that does not count against the first.
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

    def test_queries_are_not_hedged_without_budget(self) -> None:
        """
        With the budget spent they wait for the retry timeout.
        """
        scene = self.known(0.03)
        scene.ask(*[QUERY] * 60)
        scene.clock.pump([0.01] * 10)
        asked = len(scene.upstreams[1].asked)
        self.assertTrue(10 < asked < 25, asked)
        scene.clock.pump([0.01] * 20)
        self.assertEqual(60, len(scene.upstreams[1].asked))

    def test_queries_are_not_hedged_if_hedging_is_off(self) -> None:
        """
        With hedging off nothing is sent twice before the retry timeout.
        """
        scene = self.known(0)
        scene.ask(QUERY)
        scene.clock.pump([0.01] * 20)
        self.assertEqual(0, len(scene.upstreams[1].asked))

    def test_latency_of_replies_is_recorded(self) -> None:
        """
        The latency of each reply is recorded for its upstream.
        """
        scene = Scene()
        scene.ask(QUERY)
        scene.clock.advance(0.125)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual([0.125], scene.upstreams[0].times)

    def test_race_sends_to_all_upstreams_that_are_up(self) -> None:
        """
        All upstreams that are not down are sent the query at once; the first response is passed on.
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

    def test_unsent_query_is_retried_for_half_its_timeout(self) -> None:
        """
        A query that was never sent is retried for half its timeout; then there is SERVFAIL with the reason.
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

    def test_each_unsent_query_waits_for_its_own_half_timeout(self) -> None:
        """
        Of two that fail together the one past half its timeout gets SERVFAIL, and the other goes on waiting.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A, ident=1))
        scene.clock.advance(1.9)
        scene.ask(make_query("www.test.", A, ident=2))
        scene.clock.advance(0.15)
        scene.upstreams[0].fail(Unreachable("connect", "refused"))
        self.assertEqual([(1, dns.rcode.SERVFAIL)], [(answer.id, answer.rcode()) for answer in scene.answers()])
        self.assertEqual(1, len(scene.upstreams[0].asked))

    def test_query_is_answered_if_the_upstream_recovers_in_time(self) -> None:
        """
        The client gets the response, and no error.
        """
        scene = Scene()
        scene.ask(QUERY)
        for _ in range(10):
            scene.upstreams[0].fail(Unreachable("connect", "refused"))
            scene.clock.advance(0.1)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_query_fails_at_once_after_a_long_outage(self) -> None:
        """
        The failure is final, and the client gets SERVFAIL at once.
        """
        scene = Scene()
        scene.ask(QUERY)
        scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())

    def test_unanswered_sends_count_as_attempts(self) -> None:
        """
        A send without a reply is an attempt: three at most (RFC 9520 §3.1).
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

    def test_truncated_response_is_retried_without_opt(self) -> None:
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

    def test_truncated_response_with_do_is_retried_with_a_bare_opt(self) -> None:
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

    def test_upstream_that_always_truncates_is_sent_three_queries(self) -> None:
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

    def test_truncated_responses_of_a_batch_are_retried_together(self) -> None:
        """
        The other responses of the batch are sent at once.
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

    def test_isolated_query_is_retried_isolated(self) -> None:
        """
        A query sent on a connection of its own is resent on one of its own.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(make_query("www.test.", A, ident=1), QUERY[:2] + b"\0" + QUERY[3:])
        upstream = scene.upstreams[0]
        self.assertEqual([Isolation.NONE, Isolation.UNUSUAL], upstream.isolations)
        for _ in range(2):
            self.truncate(scene)
        self.assertEqual([Isolation.NONE, Isolation.UNUSUAL], upstream.isolations)
        self.assertEqual([1, 0], [question[1][2] for question in upstream.asked])

    def test_retry_without_opt_has_the_full_timeout(self) -> None:
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

    def test_late_truncated_response_is_dropped(self) -> None:
        """
        A truncated response after the deadline is dropped.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(QUERY)
        scene.clock.pump([0.5] * 9)
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())
        while scene.upstreams[0].asked:
            self.truncate(scene)
        self.assertEqual([], scene.listener.answers)

    def test_transparent_proxy_passes_on_truncated_responses(self) -> None:
        """
        The OPT is the client's own: the client gets the upstream's response.
        """
        scene = Scene()
        scene.ask(QUERY)
        self.truncate(scene)
        self.assertTrue(scene.answer().flags & dns.flags.TC)
