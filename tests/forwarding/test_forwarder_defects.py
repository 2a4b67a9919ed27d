"""
A defect in what is done for one query costs that client its response, and nobody else.
"""

from typing import Any

import dns.message
import dns.rcode
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener
from dotproxy.wire.rewrite import PassthroughRewriter
from dotproxy.wire.rrtypes import A
from tests.forwarding.test_forwarder import CLIENT, OUTSIDER, Scene, reply_of

#: Has an option, so that its options are looked at.
CULPRIT = dns.message.make_query(
    "culprit.test.",
    A,
    id=7,
    options=[dns.edns.GenericOption(65001, b"x")],  # type: ignore[attr-defined]
).to_wire()


class BrokenRewriter:
    """
    Has a defect in the method named ``broken``, for the culprit alone.
    """

    def __init__(self, broken: str) -> None:
        self._rewriter: Any = PassthroughRewriter()
        self._broken = broken
        self.is_shared = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._rewriter, name)

        def method(query: bytes, *given: Any, **named: Any) -> Any:
            if name == self._broken and b"culprit" in query:
                raise ZeroDivisionError(query)
            return real(query, *given, **named)

        return method


class DefectTests(SynchronousTestCase):
    """
    A batch in which one datagram meets a defect.
    """

    def setUp(self) -> None:
        """
        What is logged is kept.
        """
        self.logged: list[str] = []

        def observe(event: dict[str, Any]) -> None:
            self.logged.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def check(self, broken: str) -> None:
        """
        The queries before and after the culprit are asked once and answered once; the culprit is counted, logged, and
        holds nothing.
        """
        scene = Scene(rewriter=BrokenRewriter(broken))
        before, after = make_query("a.test.", A, ident=1), make_query("b.test.", A, ident=2)
        self.assertEqual(1, scene.ask(before, CULPRIT, after))
        self.assertEqual([before, after], [sent for _, sent, _ in scene.upstreams[0].asked])
        self.assertEqual((2, 1), (scene.forwarder.outstanding, scene.forwarder.counters.unanswered))
        for asked in list(scene.upstreams[0].asked):
            scene.upstreams[0].answer(reply_of(asked))
        self.assertEqual([1, 2], [int.from_bytes(octets[:2], "big") for octets, _ in scene.listener.answers])
        self.assertEqual(0, scene.forwarder.outstanding)
        self.assertEqual(1, len(self.logged))

    def test_exception_while_parsing_a_query_gives_servfail(self) -> None:
        """
        In what is seen of a query.
        """
        self.check("forwarded_options")

    def test_exception_while_rewriting_a_query_gives_servfail(self) -> None:
        """
        In what upstreams are asked, when the client has its place in flight already.
        """
        self.check("rewrite_query")

    def test_defect_is_logged_with_the_size_of_the_query_once_a_second(self) -> None:
        """
        The name is not logged, and there is one line a second at most.
        """
        scene = Scene(rewriter=BrokenRewriter("rewrite_query"))
        self.assertEqual(5, scene.ask(*[CULPRIT] * 5))
        scene.clock.advance(1.0)
        scene.ask(CULPRIT)
        self.assertEqual(2, len(self.logged))
        for line in self.logged:
            self.assertRegex(
                line,
                f"^a defect in dotproxy: no response to a query of {len(CULPRIT)} octets"
                r" \(ZeroDivisionError in test_forwarder_defects.py:\d+, .*forwarder.py:\d+\)$",
            )

    def test_exception_for_one_client_leaves_the_other_responses(self) -> None:
        """
        If a response cannot be built for one client, it gets SERVFAIL, and the others their response.
        """
        scene = Scene(rewriter=BrokenRewriter("build_response"))
        scene.ask(make_query("a.test.", A, ident=1), CULPRIT, make_query("b.test.", A, ident=3))
        for asked in list(scene.upstreams[0].asked):
            scene.upstreams[0].answer(reply_of(asked))
        self.assertEqual([CLIENT] * 3, [client for _, client in scene.listener.answers])
        self.assertEqual([3, dns.rcode.SERVFAIL, 3], [answer.rcode() for answer in scene.answers()])
        self.assertEqual(0, scene.forwarder.outstanding)
        self.assertEqual(1, len(self.logged))

    def test_exception_of_a_listener_leaves_other_queries_and_listeners(self) -> None:
        """
        What came with a query that is answered at once is asked all the same, and other listeners get their responses.
        """

        class Broken(RecordingListener):
            def send_answers(self, answers: list[tuple[bytes, Any]]) -> None:
                raise ZeroDivisionError

        scene = Scene()
        refused, asked = make_query("www.test.", A, ident=1), make_query("b.test.", A, ident=2)
        broken = Broken()
        scene.forwarder.handle_batch(broken, [(refused, OUTSIDER), (asked, CLIENT)])
        scene.ask(make_query("c.test.", A, ident=3))
        self.assertEqual(2, len(scene.upstreams[0].asked))
        upstream = scene.upstreams[0]
        upstream.observer.replies_received(upstream, [(each[0], reply_of(each)) for each in upstream.asked])
        self.assertEqual((1, 0), (len(scene.listener.answers), scene.forwarder.outstanding))
        self.assertEqual(1, len(self.logged))  # once a second
