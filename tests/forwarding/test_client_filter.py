"""
What a client gets that is not served, or has had its share.
"""

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import dns.flags
import dns.message
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ShedReason
from dotproxy.forwarding.client_filter import NEVER_ANSWERED, LimitActions
from dotproxy.policy.access import LimitAction
from dotproxy.policy.client import Client
from dotproxy.policy.client_shares import FULL_BATCH
from dotproxy.policy.share_settings import ShareLimits
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.rrtypes import A
from tests.forwarding.test_forwarder import OUTSIDER, Scene, extended_error

LOUD, QUIET = Client("127.0.0.66", 4000), Client("127.0.0.77", 4000)


class SharedScene(Scene):
    """
    A forwarder whose clients have shares.
    """

    def __init__(self, over_limit: LimitAction = LimitAction.TRUNCATE, **settings: Any) -> None:
        settings.setdefault("limits", ShareLimits())
        settings.setdefault("rewriter", EdnsRewriter())
        super().__init__(actions=LimitActions(over_limit), **settings)
        self.number = 0

    def queries(self, count: int) -> list[bytes]:
        """
        Queries for names that nobody asked for before.
        """
        self.number += count
        return [make_query(f"n{self.number - n}.test.", A, ident=n) for n in range(count)]

    def meet(self, *clients: Client) -> None:
        """
        These clients have been here for a while, and nothing of theirs is in flight.
        """
        for _ in range(2):
            for client in clients:
                self.ask(*self.queries(1), client=client)
            self.clock.advance(5)
        self.listener.answers.clear()

    @property
    def shed(self) -> dict[str, int]:
        """
        What was shed, by cause.
        """
        return {cause: count for cause, count in self.forwarder.counters.shed.items() if count}

    def rcodes(self, client: Client) -> list[tuple[int, bool]]:
        """
        What a client got: rcodes, and whether TC was set.
        """
        got = [dns.message.from_wire(octets) for octets, to in self.listener.answers if to == client]
        return [(message.rcode(), bool(message.flags & dns.flags.TC)) for message in got]

    def overload(self) -> None:
        """
        For a while, full batches come, and both clients are seen.
        """
        for _ in range(60):
            self.forwarder.handle_batch(
                self.listener, [(query, LOUD) for query in self.queries(FULL_BATCH - 1)] + [(self.queries(1)[0], QUIET)]
            )
            self.clock.advance(0.01)
        self.listener.answers.clear()


class RefusedClientTests(SynchronousTestCase):
    """
    Clients that are not served.
    """

    def test_refused_client_gets_refused_with_prohibited(self) -> None:
        """
        A query gets REFUSED with EDE "Prohibited"; a message that is no query gets no response.
        """
        scene = SharedScene()
        scene.ask(make_query("www.test.", A), client=OUTSIDER)
        self.assertEqual((18, ""), extended_error(scene.answer()))
        self.assertEqual(3, scene.ask(b"", b"x" * 20, make_query("www.test.", A)[:20], client=OUTSIDER))
        self.assertEqual({}, scene.shed)

    def test_refused_client_gets_no_response_if_configured(self) -> None:
        """
        With the action "drop" there is no response.
        """
        scene = SharedScene()
        scene.forwarder._client_filter.actions = LimitActions(not_allowed=LimitAction.DROP)
        self.assertEqual(1, scene.ask(make_query("www.test.", A), client=OUTSIDER))
        self.assertEqual(([], {ShedReason.NOT_ALLOWED: 1}), (scene.answers(), scene.shed))

    def test_refused_client_gets_no_response_under_pressure(self) -> None:
        """
        Under overload a client outside the access list gets no response.
        """
        scene = SharedScene()
        scene.forwarder.shares.overloaded_until = 10.0
        self.assertEqual(1, scene.ask(make_query("www.test.", A), client=OUTSIDER))
        self.assertEqual([], scene.answers())


class SourcePortTests(SynchronousTestCase):
    """
    UDP ports of services that answer whatever they get.
    """

    def test_udp_query_from_forbidden_port_gets_no_response(self) -> None:
        """
        No response, not even from the packet cache; over TCP the port means nothing.
        """
        self.assertEqual({0, 7, 13, 19, 37, 464}, NEVER_ANSWERED)
        scene = SharedScene()
        scene.meet(LOUD)
        for port in NEVER_ANSWERED:
            self.assertEqual(1, scene.ask(make_query("www.test.", A), client=Client(LOUD.host, port)))
        self.assertEqual(([], {ShedReason.SOURCE_PORT: 6}), (scene.answers(), scene.shed))
        stream = RecordingListener(is_stream=True)
        scene.ask(make_query("www.test.", A), client=Client(LOUD.host, 7), listener=stream)
        self.assertEqual(1, scene.forwarder.outstanding)


class StreamTests(SynchronousTestCase):
    """
    Clients over TCP.
    """

    def test_tcp_client_without_credit_is_served(self) -> None:
        """
        Each query counts, and a client without credit is served all the same.
        """
        scene = SharedScene()
        scene.meet(LOUD)
        share = scene.forwarder.shares.by_host[LOUD.host]
        stream = RecordingListener(is_stream=True)
        before = share.credit = 2
        for number in range(1, 6):
            scene.ask(*scene.queries(1), client=LOUD, listener=stream)
            self.assertEqual(before - number, share.credit)
        self.assertEqual(({}, 5), (scene.shed, scene.forwarder.outstanding))


class RateTests(SynchronousTestCase):
    """
    A client over its rate, while there is too much to do.
    """

    def flood(self, over_limit: LimitAction) -> SharedScene:
        """
        One client sends 640 queries at once, then another one sends ten.
        """
        scene = SharedScene(over_limit, max_outstanding=100_000)
        scene.meet(LOUD, QUIET)
        scene.overload()
        for _ in range(10):
            scene.ask(*scene.queries(64), client=LOUD)
        return scene

    def test_client_over_its_rate_gets_tc(self) -> None:
        """
        By default it gets TC=1; a client below its rate is served.
        """
        scene = self.flood(LimitAction.TRUNCATE)
        self.assertEqual({(dns.rcode.NOERROR, True)}, set(scene.rcodes(LOUD)))
        self.assertTrue(scene.shed[ShedReason.RATE] >= 600, scene.shed)
        asked = len(scene.upstreams[0].asked)
        scene.ask(*scene.queries(10), client=QUIET)
        self.assertEqual(([], 10), (scene.rcodes(QUIET), len(scene.upstreams[0].asked) - asked))

    def test_client_over_its_rate_is_refused_if_configured(self) -> None:
        """
        With the action "refuse" it gets REFUSED and the reason.
        """
        scene = self.flood(LimitAction.REFUSE)
        self.assertEqual({(dns.rcode.REFUSED, False)}, set(scene.rcodes(LOUD)))
        self.assertEqual((0, "over the rate of queries for one client"), extended_error(scene.answers()[0]))

    def test_client_over_its_rate_gets_no_response_if_configured(self) -> None:
        """
        With the action "drop" there is no response.
        """
        self.assertEqual([], self.flood(LimitAction.DROP).rcodes(LOUD))

    def test_junk_of_a_client_over_its_rate_is_dropped(self) -> None:
        """
        A message that is no query gets no response.
        """
        scene = self.flood(LimitAction.TRUNCATE)
        scene.listener.answers.clear()
        for _ in range(60):
            scene.ask(b"junk", b"x" * 40, client=LOUD)
        self.assertEqual([], scene.listener.answers)

    def test_tcp_queries_are_not_rate_limited(self) -> None:
        """
        Over TCP every query is processed: a connection is read no faster than its queries are answered.
        """
        scene = self.flood(LimitAction.TRUNCATE)
        asked = len(scene.upstreams[0].asked)
        scene.ask(*scene.queries(200), client=LOUD, listener=RecordingListener(is_stream=True))
        self.assertEqual(200, len(scene.upstreams[0].asked) - asked)


class InFlightTests(SynchronousTestCase):
    """
    Places in flight.
    """

    def fill(self, over_limit: LimitAction = LimitAction.TRUNCATE, *, is_stream: bool = False) -> SharedScene:
        """
        One client asks for all places.
        """
        scene = SharedScene(over_limit, max_outstanding=100)
        scene.meet(LOUD, QUIET)
        listener = RecordingListener(is_stream=True) if is_stream else scene.listener
        scene.ask(*scene.queries(80), client=LOUD, listener=listener)
        self.assertEqual(50, scene.forwarder.outstanding)
        if is_stream:
            scene.listener.answers += listener.answers
        return scene

    def test_one_client_gets_half_of_the_places(self) -> None:
        """
        Above that half it gets TC=1; another client still gets places.
        """
        scene = self.fill()
        self.assertEqual([(dns.rcode.NOERROR, True)] * 30, scene.rcodes(LOUD))
        self.assertEqual({ShedReason.IN_FLIGHT: 30}, scene.shed)
        scene.ask(*scene.queries(20), client=QUIET)
        self.assertEqual(([], 70), (scene.rcodes(QUIET), scene.forwarder.outstanding))

    def test_client_above_its_share_gets_servfail_over_tcp(self) -> None:
        """
        SERVFAIL with the reason.
        """
        scene = self.fill(is_stream=True)
        self.assertEqual([(dns.rcode.SERVFAIL, False)] * 30, scene.rcodes(LOUD))
        self.assertEqual((0, "too many queries of this client outstanding"), extended_error(scene.answers()[0]))

    def test_client_above_its_share_is_refused_or_dropped_if_configured(self) -> None:
        """
        REFUSED, or nothing over UDP.
        """
        self.assertEqual([(dns.rcode.REFUSED, False)] * 30, self.fill(LimitAction.REFUSE).rcodes(LOUD))
        self.assertEqual([], self.fill(LimitAction.DROP).rcodes(LOUD))
        self.assertEqual(30, len(self.fill(LimitAction.DROP, is_stream=True).rcodes(LOUD)))

    def test_places_are_free_after_responses_and_failures(self) -> None:
        """
        Every place is free again after a response or a failure.
        """
        scene = self.fill()
        self.clock_out(scene, [5])
        self.assertEqual((0, 0), (scene.forwarder.outstanding, scene.forwarder.shares.octets))
        scene.ask(*scene.queries(50), client=LOUD)
        self.assertEqual(50, scene.forwarder.outstanding)

    @staticmethod
    def clock_out(scene: SharedScene, steps: Iterable[float]) -> None:
        """
        Time goes on.
        """
        for step in steps:
            scene.clock.pump([step / 100] * 100)

    def test_joined_queries_each_take_a_place(self) -> None:
        """
        The same query sent several times takes as many places.
        """
        scene = SharedScene(max_outstanding=100)
        scene.meet(LOUD)
        scene.ask(*[make_query("same.test.", A, ident=n) for n in range(80)], client=LOUD)
        self.assertEqual((50, 30), (scene.forwarder.outstanding, scene.shed[ShedReason.IN_FLIGHT]))


class SilentUpstreamTests(SynchronousTestCase):
    """
    Names that an upstream never answers, while it answers others.
    """

    def sends(self, count: int) -> int:
        """
        How often an upstream is sent so many names of one client's within four seconds.
        """
        scene = SharedScene(max_outstanding=10_000)
        scene.meet(LOUD, QUIET)
        scene.upstreams[0].asked.clear()
        scene.upstreams[0].is_lively = True
        scene.ask(*scene.queries(count), client=LOUD)
        scene.clock.pump([0.05] * 100)
        return len(scene.upstreams[0].asked)

    def test_few_queries_of_a_client_are_retried(self) -> None:
        """
        A client with few queries in flight has each of them retried.
        """
        self.assertGreater(self.sends(100), 200)

    def test_many_queries_of_a_client_are_sent_once(self) -> None:
        """
        A client with very many queries in flight has none of them retried.
        """
        self.assertEqual(1000, self.sends(1000))


class LongQueryTests(SynchronousTestCase):
    """
    Queries that are longer than any resolver sends.
    """

    def test_query_over_4096_octets_is_formerr(self) -> None:
        """
        One of 4,096 octets is forwarded, one of 4,097 is a format error.
        """
        scene = SharedScene()
        for size, sent in ((4096, 1), (4097, 0)):
            query = make_query("www.test.", A)
            option = (
                (65001).to_bytes(2, "big") + (size - len(query) - 4).to_bytes(2, "big") + bytes(size - len(query) - 4)
            )
            query = query[:-2] + len(option).to_bytes(2, "big") + option
            self.assertEqual(size, len(query))
            scene.upstreams[0].asked.clear()
            scene.ask(query, listener=RecordingListener(is_stream=True) if sent else None)
            self.assertEqual(sent, len(scene.upstreams[0].asked))
        self.assertEqual(dns.rcode.FORMERR, scene.answer().rcode())

    def test_exempt_client_may_use_all_places(self) -> None:
        """
        An exempt client is not held to a share.
        """
        scene = SharedScene(max_outstanding=100, limits=ShareLimits(exempt=(ip_network("127.0.0.66/32"),)))
        scene.ask(*scene.queries(120), client=LOUD)
        self.assertEqual(100, scene.forwarder.outstanding)
        self.assertEqual([(dns.rcode.SERVFAIL, False)] * 20, scene.rcodes(LOUD))
