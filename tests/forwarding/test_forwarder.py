"""
The life of one query.
"""

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import dns.rcode
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import BadReply, ConnectionGone, Unreachable, Untrusted
from dotproxy.forwarding.client_filter import LimitActions
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.forwarding.query_filter import QueryFilter
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.forwarding.settings import DispatcherSettings, ForwarderSettings
from dotproxy.policy.access import AccessList
from dotproxy.policy.budget import Budget
from dotproxy.policy.client import Client
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.share_settings import ShareLimits, ShareSettings
from dotproxy.policy.special_names import FAMILIES, SpecialNames
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener, ScriptedUpstream
from dotproxy.testing.zone import Zone, address_rdata, txt_rdata
from dotproxy.wire.message import parse_query
from dotproxy.wire.rewrite import EdnsRewriter, PassthroughRewriter
from dotproxy.wire.rrtypes import TXT, A

ZONE = Zone({("www.test.", A): [address_rdata("192.0.2.1")], ("big.test.", TXT): [txt_rdata("x" * 2000)]})
CLIENT = Client("127.0.0.1", 4000)
OUTSIDER = Client("192.0.2.200", 4000)


def reply_of(question: tuple[Any, bytes, int]) -> bytes:
    """
    What the upstream says to a question.
    """
    reply = ZONE(question[1])
    assert reply is not None
    return reply


class Scene:
    """
    A forwarder between a listener and upstreams.
    """

    def __init__(self, upstreams: int = 1, **settings: Any) -> None:
        self.clock = Clock()
        self.upstreams = [ScriptedUpstream(f"u{n}") for n in range(upstreams)]
        given: dict[str, Any] = {"transfers": None, "cache": None, **settings}
        rewriter = given.pop("rewriter", PassthroughRewriter())
        networks = [ip_network("127.0.0.0/8")]
        limits = given.pop("limits", ShareLimits(exempt=tuple(networks)))
        given["shares"] = ClientShares(
            ShareSettings(AccessList(networks).allows, max_in_flight=given.pop("max_outstanding", 100), limits=limits)
        )
        asked: dict[str, Any] = {"hedging": Budget(0), "query_timeout": 4.0, "attempt_timeout": 1.5, "at_once": 1}
        asked = {key: given.pop(key, default) for key, default in asked.items()}
        special = SpecialNames(given.pop("forwarded", FAMILIES))
        forwarder_settings = ForwarderSettings(
            ordering=given.pop("ordering", lambda query, seen: tuple(range(upstreams))),
            query_filter=QueryFilter(special, rewriter),
            rewriter=rewriter,
            response_builder=ResponseBuilder(rewriter, given.pop("udp_max_size", 1232)),
            limit_actions=given.pop("actions", LimitActions()),
        )
        now = self.clock.seconds
        self.dispatcher = Dispatcher(
            self.upstreams, DispatcherSettings(rewriter.parse_response, **asked), clock=self.clock, monotonic=now
        )
        self.forwarder = Forwarder(
            self.dispatcher,
            forwarder_settings,
            clock=self.clock,
            monotonic=now,
            boottime=now,
            wall_time=lambda: 0.0,
            **given,
        )
        self.listener = RecordingListener()

    def ask(self, *queries: bytes, client: Client = CLIENT, listener: RecordingListener | None = None) -> int:
        """
        Questions arrive, in one batch.
        """
        return self.forwarder.handle_batch(listener or self.listener, [(query, client) for query in queries])

    def answers(self) -> list[dns.message.Message]:
        """
        What was answered, parsed, and taken away.
        """
        parsed = [dns.message.from_wire(octets, raise_on_truncation=False) for octets, _ in self.listener.answers]
        self.listener.answers.clear()
        return parsed

    def answer(self) -> dns.message.Message:
        """
        The one answer there is.
        """
        (answer,) = self.answers()
        return answer


def extended_error(message: dns.message.Message) -> tuple[int, str]:
    """
    The Extended DNS Error in an answer.
    """
    (option,) = message.options
    return int(option.code), option.text or ""


class ForwardingTests(SynchronousTestCase):
    """
    A question that is answered.
    """

    def test_octets_are_forwarded_unchanged_except_the_id(self) -> None:
        """
        The query goes to the upstream as received, the response to the client with the client's ID.
        """
        scene = Scene()
        query = make_query("wWw.test.", A, ident=0xABCD)
        scene.ask(query)
        ((_token, sent, end),) = scene.upstreams[0].asked
        self.assertEqual((query, 26), (sent, end))
        reply = b"\x12\x34" + reply_of(scene.upstreams[0].asked[0])[2:]
        scene.upstreams[0].answer(reply)
        self.assertEqual([(b"\xab\xcd" + reply[2:], CLIENT)], scene.listener.answers)
        self.assertEqual(0, scene.forwarder.outstanding)

    def test_repr_counts_clients_and_queries(self) -> None:
        """
        Clients that wait, queries in flight, and those of them that were rescheduled.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A), make_query("www.test.", TXT))
        self.assertEqual("<Dispatcher: 2 in flight (0 rescheduled)>", repr(scene.dispatcher))
        scene.clock.advance(1.5)
        self.assertEqual(
            "<Forwarder: 2 clients waiting, <Dispatcher: 2 in flight (2 rescheduled)>>", repr(scene.forwarder)
        )
        scene.forwarder.stop()
        self.assertEqual(
            "<Forwarder: 0 clients waiting, <Dispatcher: 0 in flight (0 rescheduled)>>", repr(scene.forwarder)
        )

    def test_upstream_selection_gets_the_query_and_its_info(self) -> None:
        """
        The selection of upstreams is given the query's octets and the parsed QueryInfo.
        """
        given: list[Any] = []

        def order(query: bytes, info: Any) -> tuple[int, ...]:
            given.append((query, info.qtype))
            return (0,)

        query = make_query("www.test.", A)
        Scene(ordering=order).ask(query)
        self.assertEqual([(query, A)], given)

    def test_queries_and_responses_of_a_batch_stay_together(self) -> None:
        """
        Queries received together are sent together, and so are their responses.
        """
        scene = Scene()
        scene.ask(*[make_query("www.test.", A, ident=n) for n in range(5)])
        upstream = scene.upstreams[0]
        self.assertEqual([5], upstream.batches)
        upstream.observer.replies_received(
            upstream, [(token, reply_of((token, octets, end))) for token, octets, end in upstream.asked]
        )
        self.assertEqual([5], scene.listener.batches)
        self.assertEqual([0, 1, 2, 3, 4], [answer.id for answer in scene.answers()])

    def test_responses_go_to_the_listener_of_their_query(self) -> None:
        """
        Responses to queries of several listeners are sorted by listener.
        """
        scene = Scene()
        other = RecordingListener(is_stream=True)
        scene.ask(make_query("www.test.", A, ident=1))
        scene.ask(make_query("www.test.", A, ident=2), client=Client("127.0.0.2", 1), listener=other)
        upstream = scene.upstreams[0]
        upstream.observer.replies_received(upstream, [(asked[0], reply_of(asked)) for asked in upstream.asked])
        self.assertEqual([(1, CLIENT)], [(octets[1], client) for octets, client in scene.listener.answers])
        self.assertEqual(
            [(2, "127.0.0.2", 1)], [(octets[1], client.host, client.port) for octets, client in other.answers]
        )

    def test_response_too_large_for_udp_is_truncated(self) -> None:
        """
        A response above the client's size or the configured limit is truncated over UDP, and whole over TCP.
        """
        for size, is_stream, truncated in ((1232, False, True), (4096, False, True), (512, True, False)):
            scene = Scene()
            listener = RecordingListener(is_stream=is_stream)
            query = make_query("big.test.", TXT)[:-11] + b"\0\0\x29" + size.to_bytes(2, "big") + b"\0" * 6
            scene.ask(query, listener=listener)
            scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
            ((octets, _),) = listener.answers
            message = dns.message.from_wire(octets, raise_on_truncation=False)
            self.assertEqual(truncated, bool(message.flags & dns.flags.TC))
            self.assertEqual((truncated, 0), (not message.answer, message.edns))

    def test_udp_size_limit_is_configurable(self) -> None:
        """
        With a larger limit the client's own size decides (RFC 5625 §4.4.3).
        """
        scene = Scene(udp_max_size=4096)
        scene.ask(make_query("big.test.", TXT)[:-11] + b"\0\0\x29\x10\0" + b"\0" * 6)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(1, len(scene.answer().answer))

    def test_client_without_edns_gets_512_octets_at_most(self) -> None:
        """
        Without OPT the limit is 512 octets (RFC 1035 §4.2.1), and the truncated response has no OPT.
        """
        scene = Scene()
        scene.ask(make_query("big.test.", TXT, edns=False))
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        answer = scene.answer()
        self.assertEqual((True, -1), (bool(answer.flags & dns.flags.TC), answer.edns))


class JudgementTests(SynchronousTestCase):
    """
    Questions that are not forwarded.
    """

    def test_runts_and_responses_are_dropped_and_counted(self) -> None:
        """
        Neither gets a response (RFC 1035 §7.3).
        """
        scene = Scene()
        response = make_query("www.test.", A)
        response = response[:2] + b"\x81" + response[3:]
        self.assertEqual(3, scene.ask(b"", b"x" * 11, response))
        self.assertEqual(([], []), (scene.listener.answers, scene.upstreams[0].asked))

    def test_malformed_queries_get_formerr_notimp_or_badvers(self) -> None:
        """
        FORMERR, NOTIMP and BADVERS are sent at once, and nothing is forwarded.
        """
        scene = Scene()
        good = make_query("www.test.", A)
        badvers = good[:-5] + b"\1" + good[-4:]
        self.assertEqual(0, scene.ask(good[:-1], good[:2] + b"\x21" + good[3:], badvers))
        self.assertEqual([1, 4, 16], [int(answer.rcode()) for answer in scene.answers()])
        self.assertEqual([], scene.upstreams[0].asked)

    def test_client_outside_the_access_list_is_refused(self) -> None:
        """
        REFUSED has no more octets than the query; a malformed query gets no response.
        """
        scene = Scene()
        self.assertEqual(1, scene.ask(make_query("www.test.", A), b"\0\1\1\0" + b"\0" * 8, client=OUTSIDER))
        ((octets, client),) = scene.listener.answers
        self.assertEqual(OUTSIDER, client)
        self.assertLessEqual(len(octets), len(make_query("www.test.", A)) + 6)
        self.assertEqual(
            (dns.rcode.REFUSED, (18, "")), (scene.answers()[0].rcode(), extended_error(dns.message.from_wire(octets)))
        )

    def test_axfr_and_ixfr_over_tcp_go_to_the_transfer_service(self) -> None:
        """
        AXFR and IXFR over TCP are handed to the zone transfer (RFC 5936 §4.2).
        """
        begun: list[Any] = []
        transfers = SimpleNamespace(begin=lambda *given: begun.append(given))
        scene = Scene(upstreams=2, transfers=transfers)
        listener = RecordingListener(is_stream=True)
        queries = [make_query("test.", 252), make_query("test.", 251)]
        scene.ask(*queries, listener=listener)
        self.assertEqual([(listener, CLIENT, query, parse_query(query), query, (0, 1)) for query in queries], begun)
        self.assertEqual(0, scene.forwarder.outstanding)

    def test_query_above_the_in_flight_limit_gets_servfail(self) -> None:
        """
        SERVFAIL is sent at once, with the reason.
        """
        scene = Scene(max_outstanding=3)
        scene.ask(*[make_query("www.test.", A, ident=n) for n in range(5)])
        answers = scene.answers()
        self.assertEqual([3, 4], [answer.id for answer in answers])
        self.assertEqual((0, "too many queries outstanding"), extended_error(answers[0]))
        self.assertEqual(2, scene.forwarder.counters.overload_refusals)
        self.assertEqual(3, len(scene.upstreams[0].asked))


class FailureTests(SynchronousTestCase):
    """
    Upstreams that do not answer.
    """

    def test_query_is_retried_at_the_next_upstream(self) -> None:
        """
        A query that fails at one upstream is sent to the next, whose response goes to the client.
        """
        scene = Scene(upstreams=2)
        scene.ask(make_query("www.test.", A))
        scene.upstreams[0].fail(Unreachable("connect", "connection refused"), is_final=True)
        self.assertEqual([], scene.listener.answers)
        scene.upstreams[1].answer(reply_of(scene.upstreams[1].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_upstreams_that_are_up_are_preferred(self) -> None:
        """
        An upstream that is down comes last.
        """
        scene = Scene(upstreams=2)
        scene.upstreams[0].tier = 2
        scene.ask(make_query("www.test.", A))
        self.assertEqual([0, 1], [len(upstream.asked) for upstream in scene.upstreams])

    def test_all_upstreams_are_queried_if_all_are_down(self) -> None:
        """
        They are sent the query together: the first response is passed on, the other is dropped.
        """
        scene = Scene(upstreams=2)
        for upstream in scene.upstreams:
            upstream.tier = 2
        scene.ask(make_query("www.test.", A))
        self.assertEqual([1, 1], [len(upstream.asked) for upstream in scene.upstreams])
        scene.upstreams[0].fail(Unreachable("connect", "connection refused"), is_final=True)
        self.assertEqual([0, 1], [len(upstream.asked) for upstream in scene.upstreams])
        scene.upstreams[1].answer(reply_of(scene.upstreams[1].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_servfail_if_all_upstreams_failed(self) -> None:
        """
        The client gets SERVFAIL with EDE 22 and each upstream's failure (RFC 8914 §4.23).
        """
        scene = Scene(upstreams=2)
        scene.ask(make_query("www.test.", A, ident=7))
        scene.upstreams[0].fail(Unreachable("connect", "connection refused"), is_final=True)
        scene.upstreams[1].fail(Untrusted("verify", "the certificate has expired"), is_final=True)
        answer = scene.answer()
        self.assertEqual((7, dns.rcode.SERVFAIL), (answer.id, answer.rcode()))
        text = "u0: connect: connection refused; u1: verify: the certificate has expired"
        self.assertEqual((22, text), extended_error(answer))
        self.assertEqual(0, scene.forwarder.outstanding)

    def test_servfail_has_ede_23_if_an_upstream_was_reached(self) -> None:
        """
        With a connection but no response the code is EDE 23 (RFC 8914 §4.24).
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        for _ in range(3):
            scene.upstreams[0].fail(ConnectionGone("read", "the connection broke"))
        self.assertEqual((23, "u0: read: the connection broke"), extended_error(scene.answer()))

    def test_servfail_has_no_opt_for_a_client_without_edns(self) -> None:
        """
        RFC 6891 §7.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A, edns=False))
        scene.upstreams[0].fail(Unreachable("connect", "connection refused"), is_final=True)
        answer = scene.answer()
        self.assertEqual((dns.rcode.SERVFAIL, -1), (answer.rcode(), answer.edns))

    def test_query_is_sent_three_times_at_most_to_one_upstream(self) -> None:
        """
        RFC 9520 §3.1.
        """
        scene = Scene()
        scene.ask(make_query("www.test.", A))
        for n in range(3):
            self.assertEqual((1, []), (len(scene.upstreams[0].asked), scene.listener.answers), n)
            scene.upstreams[0].fail(BadReply("read", "the upstream sent a message of 0 octets"))
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())

    def test_failure_of_one_upstream_waits_for_the_others(self) -> None:
        """
        While another upstream that was asked may answer, the failure of one is not the end, and it is not asked twice.
        """
        scene = Scene(upstreams=2)
        scene.ask(make_query("www.test.", A))
        scene.clock.advance(1.6)
        scene.upstreams[1].fail(Unreachable("connect", "connection refused"), is_final=True)
        self.assertEqual(([], 1), (scene.listener.answers, len(scene.upstreams[0].asked)))
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())


class LocalTests(SynchronousTestCase):
    """
    Names that are answered here.
    """

    def test_special_names_are_not_forwarded(self) -> None:
        """
        They are answered locally (RFC 6761 §6).
        """
        scene = Scene(forwarded=())
        names = ("x.localhost.", "x.onion.", "resolver.arpa.")
        scene.ask(*[make_query(name, A) for name in names])
        expected = [(dns.rcode.NOERROR, 1), (dns.rcode.NXDOMAIN, 0), (dns.rcode.NOERROR, 0)]
        self.assertEqual(expected, [(answer.rcode(), len(answer.answer)) for answer in scene.answers()])
        self.assertEqual([], scene.upstreams[0].asked)

    def test_client_outside_the_access_list_is_refused_special_names_too(self) -> None:
        """
        The access list is checked before special names.
        """
        scene = Scene(forwarded=())
        scene.ask(make_query("localhost.", A), client=OUTSIDER)
        self.assertEqual(dns.rcode.REFUSED, scene.answer().rcode())

    def test_unparsable_response_is_retried_then_servfail(self) -> None:
        """
        A response whose records cannot be parsed is discarded: another upstream is sent the query, and SERVFAIL
        follows.
        """
        scene = Scene(upstreams=2, rewriter=EdnsRewriter())
        scene.ask(make_query("www.test.", A))
        for upstream in scene.upstreams:
            upstream.answer(reply_of(upstream.asked[0])[:-1])
        self.assertEqual([0, 1], sorted(len(upstream.asked) for upstream in scene.upstreams))
        for _ in range(4):
            for upstream in scene.upstreams:
                if upstream.asked:
                    upstream.answer(reply_of(upstream.asked[0])[:-1])
        answer = scene.answer()
        self.assertEqual((dns.rcode.SERVFAIL, 23), (answer.rcode(), extended_error(answer)[0]))
        self.assertIn("an answer of no use: record runs past the end of the message", extended_error(answer)[1])
