"""
Which upstream a query is sent to after one must not be asked again, and after errors.
"""

import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionGone, Incompatible, Unreachable, Untrusted
from dotproxy.testing.client import make_query
from dotproxy.testing.zone import A
from tests.forwarding.test_forwarder import Scene, extended_error, reply_of
from tests.forwarding.test_forwarder_failover import error_of

QUERY = make_query("www.test.", A)
SERVFAIL, REFUSED, NOERROR = dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOERROR


class GivenUpCase(SynchronousTestCase):
    """
    A real dispatcher between a listener and scripted upstreams.
    """

    def ask(self, upstreams: int) -> Scene:
        """
        Send one query to the first of so many upstreams.
        """
        self.scene = scene = Scene(upstreams=upstreams)
        scene.ask(QUERY)
        self.assert_asked(0)
        return scene

    def give_up(self, index: int) -> None:
        """
        Let an upstream fail for good: its certificate is not valid.
        """
        self.scene.upstreams[index].fail(Untrusted("verify", "the certificate has expired"), is_final=True)

    def answer(self, index: int, rcode: int) -> None:
        """
        Let an upstream respond with this rcode.
        """
        upstream = self.scene.upstreams[index]
        asked = upstream.asked[0]
        upstream.answer(reply_of(asked) if rcode == NOERROR else error_of(asked, rcode))

    def assert_asked(self, *indices: int) -> None:
        """
        These upstreams, and no others, have the query.
        """
        asked = [index for index, upstream in enumerate(self.scene.upstreams) for _ in upstream.asked]
        self.assertEqual(list(indices), asked)

    def assert_response(self, rcode: int) -> None:
        """
        The client got exactly one response, with this rcode, and nothing is in flight.
        """
        self.assertEqual(rcode, self.scene.answer().rcode())
        self.assertEqual(0, len(self.scene.dispatcher))
        self.assert_asked()


class GivenUpTests(GivenUpCase):
    """
    An upstream that must not be asked again is no attempt, and is not sent the query again.
    """

    def test_third_upstream_is_queried_after_untrusted_and_error(self) -> None:
        """
        A is not trusted, B responds SERVFAIL or REFUSED: C is sent the query, and its response is passed on.
        """
        for rcode in (SERVFAIL, REFUSED):
            self.ask(3)
            self.give_up(0)
            self.assert_asked(1)
            self.answer(1, rcode)
            self.assert_asked(2)
            self.answer(2, NOERROR)
            self.assert_response(NOERROR)

    def test_third_upstream_is_queried_after_slow_servfail(self) -> None:
        """
        The same if B takes a second for its SERVFAIL.
        """
        self.ask(3)
        self.give_up(0)
        self.scene.clock.advance(1.0)
        self.assert_asked(1, 2)
        self.answer(1, SERVFAIL)
        self.answer(2, NOERROR)
        self.assert_response(NOERROR)

    def test_fourth_upstream_is_queried_after_two_untrusted_and_servfail(self) -> None:
        """
        A and B are not trusted, C responds SERVFAIL: D is sent the query.
        """
        self.ask(4)
        self.give_up(0)
        self.give_up(1)
        self.answer(2, SERVFAIL)
        self.assert_asked(3)
        self.answer(3, NOERROR)
        self.assert_response(NOERROR)

    def test_fourth_upstream_is_queried_after_untrusted_and_two_servfails(self) -> None:
        """
        A is not trusted, B and C respond SERVFAIL: D is sent the query.
        """
        self.ask(4)
        self.give_up(0)
        self.answer(1, SERVFAIL)
        self.answer(2, SERVFAIL)
        self.assert_asked(3)
        self.answer(3, NOERROR)
        self.assert_response(NOERROR)

    def test_trusted_one_of_two_is_sent_the_query_three_times(self) -> None:
        """
        A is not trusted, B responds SERVFAIL at once: B is sent the query twice more (RFC 9520 §3.1), A never again.
        """
        self.ask(2)
        self.give_up(0)
        for _ in range(3):
            self.assert_asked(1)
            self.answer(1, SERVFAIL)
        self.assert_response(SERVFAIL)

    def test_slow_servfail_of_the_last_is_the_response(self) -> None:
        """
        A is not trusted, B responds SERVFAIL after more than 0.25 s: the response is passed on without a retry.
        """
        self.ask(2)
        self.give_up(0)
        self.scene.clock.advance(0.3)
        self.answer(1, SERVFAIL)
        self.assert_response(SERVFAIL)

    def test_upstream_given_up_twice_is_not_sent_the_query_again(self) -> None:
        """
        A fails for good twice, as it has the query twice: it is not asked a third time, and the others are.
        """
        self.ask(3)
        first = self.scene.upstreams[0]
        first.asked *= 2
        self.give_up(0)
        self.assert_asked(1)
        self.answer(1, SERVFAIL)
        self.assert_asked(2)
        self.answer(2, NOERROR)
        self.assert_response(NOERROR)

    def test_query_lost_alone_is_resent_after_another_upstream_was_given_up(self) -> None:
        """
        A is not trusted, the connection to B ends under the query alone: B is sent it once more, and its response counts.
        """
        self.ask(2)
        self.give_up(0)
        gone = ConnectionGone("read", "the upstream closed the connection")
        gone.was_alone = True
        self.scene.upstreams[1].fail(gone)
        self.assert_asked(1)
        self.answer(1, NOERROR)
        self.assert_response(NOERROR)

    def test_query_fails_at_once_if_all_upstreams_are_given_up(self) -> None:
        """
        If each upstream fails for good, the client gets SERVFAIL at once, with each reason once.
        """
        for upstreams in (1, 2, 3):
            self.ask(upstreams)
            for index in range(upstreams):
                self.give_up(index)
            code, text = extended_error(self.scene.answer())
            expected = "; ".join(f"u{index}: verify: the certificate has expired" for index in range(upstreams))
            self.assertEqual((22, expected), (code, text))

    def test_failed_dial_is_no_attempt(self) -> None:
        """
        Neither a dial that failed nor a TLS session that is not possible is a send to that upstream.
        """
        for error in (Unreachable("connect", "refused"), Incompatible("tls", "no common version")):
            self.ask(3)
            (query,) = self.scene.dispatcher
            self.scene.upstreams[0].fail(error, is_final=True)
            self.assertEqual(((1,), (1,), (0,)), (query.attempts, query.awaiting, query.given_up))


class ErrorCountTests(GivenUpCase):
    """
    How many errors are taken before a client gets one.
    """

    def lose(self, index: int) -> None:
        """
        End the connection to an upstream.
        """
        self.scene.upstreams[index].fail(ConnectionGone("read", "the upstream closed the connection"))

    def test_lost_connections_do_not_count_as_error_responses(self) -> None:
        """
        The connections to A and B end, C responds SERVFAIL: D, which has no attempt yet, is sent the query.
        """
        for rcode in (SERVFAIL, REFUSED):
            self.ask(4)
            self.lose(0)
            self.lose(1)
            self.answer(2, rcode)
            self.assert_asked(3)
            self.answer(3, NOERROR)
            self.assert_response(NOERROR)

    def test_three_error_responses_end_the_retries(self) -> None:
        """
        Three upstreams respond SERVFAIL: the fourth and the fifth are not sent the query.
        """
        self.ask(5)
        for index in range(3):
            self.answer(index, SERVFAIL)
        self.assert_response(SERVFAIL)

    def test_one_upstream_is_sent_a_query_three_times_at_most(self) -> None:
        """
        Its connection ended once, then it responds SERVFAIL at once: three sends in all (RFC 9520 §3.1).
        """
        self.ask(1)
        self.lose(0)
        self.answer(0, SERVFAIL)
        self.answer(0, SERVFAIL)
        self.assert_response(SERVFAIL)


class StoppedByAClientTests(SynchronousTestCase):
    """
    A client that gets its response may close the resolver at once.
    """

    def test_query_failed_meanwhile_is_not_sent_again(self) -> None:
        """
        A SERVFAIL of the same batch is not retried then; no query stays in flight, and no timer.
        """
        scene = Scene(upstreams=2)
        scene.ask(make_query("good.test.", A), make_query("bad.test.", A))
        upstream = scene.upstreams[0]
        (good, _), (bad, _) = ((query, sent) for query, sent, _ in upstream.asked)
        scene.listener.send_answers = lambda answers: scene.dispatcher.stop()  # type: ignore[method-assign]
        replies = [
            (good, good.sent[:2] + b"\x81\x80" + good.sent[4:]),
            (bad, bad.sent[:2] + b"\x81\x82" + bad.sent[4:]),
        ]
        scene.dispatcher.replies_received(upstream, replies)
        self.assertEqual((0, []), (len(scene.dispatcher), scene.upstreams[1].asked))
