"""
Zone transfers, in memory.
"""

import dns.flags
import dns.message
import dns.rcode
from OpenSSL import SSL
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.client import Client
from dotproxy.testing.fakes import RecordingListener
from dotproxy.testing.server import DotServer, MemoryNetwork
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from dotproxy.upstream.zone_transfer import CLOSE_TIMEOUT, SILENCE_TIMEOUT, Transfers, TransferSettings
from dotproxy.wire.message import parse_query
from dotproxy.wire.rewrite import EdnsRewriter
from tests.upstream.scenes import ADDRESS, GOOD, STRANGER, Counting, Heard, make_verifier
from tests.wire.test_axfr import host, make_query, messages_of, soa, whole

CLIENT = Client("127.0.0.1", 4000)


class Scene:
    """
    A client, its transfer, and the upstreams it may come from.
    """

    def __init__(self, upstreams: int = 1, limit: int = 2) -> None:
        self.network = MemoryNetwork()
        self.clock = self.network.reactor
        self.server = DotServer(lambda query: None, GOOD)
        self.upstreams = [
            Upstream(
                f"u{number}",
                VerifiedEndpoint(self.clock, ADDRESS, 853, make_verifier(), 3.0),
                UpstreamSettings(),
                runtime=Runtime(self.clock, self.clock.seconds, Counting(), lambda: 0.0),
                events=Heard(),
            )
            for number in range(upstreams)
        ]
        self.transfers = Transfers(
            TransferSettings(self.upstreams, EdnsRewriter(), limit), clock=self.clock, random_octets=Counting()
        )
        self.transfers.startService()
        self.listener = RecordingListener(is_stream=True)
        self.query = make_query("AXFR")
        self.query.use_edns(0)

    def begin(self) -> None:
        """
        A client asks for the zone.
        """
        wire = self.query.to_wire()
        seen = parse_query(wire)
        sent = EdnsRewriter().rewrite_query(wire, seen)
        self.transfers.begin(self.listener, CLIENT, wire, seen, sent, range(len(self.upstreams)))
        self.network.settle()

    def accept(self) -> None:
        """
        Let the upstream connect, and be asked.
        """
        self.network.accept(self.server)

    def send(self, *messages: bytes) -> None:
        """
        The upstream sends these, under the ID it was asked with.
        """
        ident = self.server.queries[-1][:2]
        for message in messages:
            self.server.connections[-1].send(ident + message[2:])
        self.network.settle()

    def answer(self) -> dns.message.Message:
        """
        The last message the client got.
        """
        ((octets, client),) = self.listener.answers
        assert client == CLIENT
        return dns.message.from_wire(octets)


class TransferTests(SynchronousTestCase):
    """
    Transfers that end as they should.
    """

    def setUp(self) -> None:
        """
        An upstream that was asked for a zone of three messages.
        """
        self.scene = Scene()
        self.messages = messages_of(self.scene.query, whole(7, range(9)), {3, 6}, question=False)
        self.scene.begin()
        self.scene.accept()

    def test_transfer_query_is_padded_with_opt_and_its_own_id(self) -> None:
        """
        It goes out padded, with an OPT and an ID of ours (RFC 8467 §4.1).
        """
        (query,) = self.scene.server.queries
        self.assertEqual(0, len(query) % 128)
        self.assertEqual(self.scene.query.question, dns.message.from_wire(query).question)

    def test_messages_are_passed_on_with_the_clients_id_and_opt(self) -> None:
        """
        Each message is passed on as it comes, with the client's ID and an OPT (RFC 5936 §2.2), and after the last the
        connection is closed (RFC 9103 §6.3: it was for this transfer alone).
        """
        scene = self.scene
        for count, message in enumerate(self.messages, 1):
            scene.send(message)
            self.assertEqual(count, len(scene.listener.parts) + len(scene.listener.answers))
        received = [*scene.listener.parts, scene.listener.answers[0][0]]
        for message, octets in zip(self.messages, received, strict=True):
            parsed = dns.message.from_wire(octets)
            self.assertEqual((scene.query.id, 0), (parsed.id, parsed.edns))
            self.assertEqual(message[12:], octets[12 : len(message)])
            self.assertEqual(message[4:10], octets[4:10])
        self.assertEqual([], scene.listener.sources)
        self.assertEqual([], scene.server.connections)

    def test_messages_received_together_are_sent_together(self) -> None:
        """
        Messages under another ID are dropped.
        """
        scene = self.scene
        scene.server.connections[-1].send(b"zz" + self.messages[0][2:])
        scene.send(*self.messages)
        self.assertEqual((2, 1), (len(scene.listener.parts), len(scene.listener.answers)))

    def test_slow_client_pauses_the_upstream(self) -> None:
        """
        While the client does not read, the upstream is not read from, and does not become suspect.
        """
        scene = self.scene
        (source,) = scene.listener.sources
        scene.send(self.messages[0])
        states: list[str] = []
        transport = source._connection.transport
        self.patch(transport, "pauseProducing", lambda: states.append("paused"))
        self.patch(transport, "resumeProducing", lambda: states.append("resumed"))
        source.pause()
        self.assertEqual(["paused"], states)
        scene.network.advance(SILENCE_TIMEOUT * 3)
        self.assertEqual([], scene.listener.answers)
        source.resume()
        self.assertEqual(["paused", "resumed"], states)
        scene.send(*self.messages[1:])
        self.assertEqual(1, len(scene.listener.answers))

    def test_client_disconnect_ends_the_transfer(self) -> None:
        """
        The connection to the upstream ends, and nothing is sent.
        """
        scene = self.scene
        scene.send(self.messages[0])
        scene.listener.sources[0].client_gone()
        scene.network.settle()
        self.assertEqual(([], []), (scene.listener.answers, scene.server.connections))

    def test_upstream_without_close_notify_is_aborted(self) -> None:
        """
        It is aborted after a moment.
        """
        scene = self.scene
        scene.send(*self.messages)
        scene.network.advance(CLOSE_TIMEOUT)
        self.assertEqual([], scene.server.connections)
        self.assertEqual([], scene.clock.getDelayedCalls())

    def test_refusal_of_the_upstream_is_passed_on(self) -> None:
        """
        RFC 5936 §2.2.1.
        """
        reply = dns.message.make_response(self.scene.query)
        reply.set_rcode(dns.rcode.NOTAUTH)
        self.scene.send(reply.to_wire())
        self.assertEqual(dns.rcode.NOTAUTH, self.scene.answer().rcode())


class BrokenTests(SynchronousTestCase):
    """
    Transfers that break off after a part was sent.
    """

    def test_broken_transfer_gives_one_servfail_with_the_reason(self) -> None:
        """
        The client gets SERVFAIL, once, with the phase and the reason; its source has ended.
        """
        scene = Scene()
        messages = messages_of(scene.query, whole(7, range(9)), {3, 6}, question=False)
        scene.begin()
        scene.accept()
        scene.send(messages[0])
        scene.send(messages[1][:2] + b"\x01" + messages[1][3:])
        answer = scene.answer()
        self.assertEqual((dns.rcode.SERVFAIL, []), (answer.rcode(), scene.listener.sources))
        self.assertEqual("u0: read: no reply to a query", answer.options[0].text)
        scene.network.advance(SILENCE_TIMEOUT + CLOSE_TIMEOUT)
        self.assertEqual(
            (1, [], []), (len(scene.listener.answers), scene.server.connections, scene.clock.getDelayedCalls())
        )

    def test_reload_may_forbid_transfers(self) -> None:
        """
        A reload may allow none at all.
        """
        scene = Scene()
        scene.transfers.apply_settings(TransferSettings(scene.upstreams, EdnsRewriter(), 0))
        scene.begin()
        self.assertEqual((dns.rcode.REFUSED, 0), (scene.answer().rcode(), len(scene.network.dialled)))

    def test_stop_ends_a_transfer_with_servfail(self) -> None:
        """
        A transfer that is under way ends with SERVFAIL.
        """
        scene = Scene()
        scene.begin()
        scene.accept()
        scene.transfers.stopService()
        scene.network.advance(CLOSE_TIMEOUT)
        answer = scene.answer()
        self.assertEqual(dns.rcode.SERVFAIL, answer.rcode())
        self.assertIn("read: shutting down", answer.options[0].text)

    def test_a_transfer_that_has_ended_makes_room_for_another(self) -> None:
        """
        The limit is on those under way.
        """
        scene = Scene(limit=1)
        for _ in range(3):
            scene.begin()
            scene.accept()
            scene.send(*messages_of(scene.query, whole(7, range(3)), {2}))
        self.assertEqual(
            [dns.rcode.NOERROR] * 3, [dns.message.from_wire(octets).rcode() for octets, _ in scene.listener.answers]
        )
        scene.begin()
        scene.begin()
        last = dns.message.from_wire(scene.listener.answers[-1][0])
        self.assertEqual((4, dns.rcode.SERVFAIL), (len(scene.listener.answers), last.rcode()))
        self.assertEqual("too many zone transfers under way", last.options[0].text)

    def test_silence(self) -> None:
        """
        After 15 s without a message the client is told SERVFAIL, with the phase and the reason.
        """
        scene = Scene()
        messages = messages_of(scene.query, whole(7, range(9)), {3, 6}, question=False)
        scene.begin()
        scene.accept()
        scene.network.advance(14.9)
        scene.send(messages[0])
        scene.network.advance(14.9)
        self.assertEqual([], scene.listener.answers)
        scene.network.advance(0.2)
        self.assertEqual("u0: read: nothing for 15 s of a zone transfer", scene.answer().options[0].text)

    def test_messages_after_the_end_are_dropped(self) -> None:
        """
        What comes after the end is not sent, and a client that goes away then changes nothing.
        """
        scene = Scene()
        messages = messages_of(scene.query, whole(7, range(9)), {3, 6}, question=False)
        scene.begin()
        scene.accept()
        scene.send(messages[0])
        (source,) = scene.listener.sources
        scene.send(*messages[1:])
        answers = list(scene.listener.answers)
        source.client_gone()
        source.client_gone()
        scene.network.settle()
        self.assertEqual((answers, []), (scene.listener.answers, scene.listener.sources))


class FailureTests(SynchronousTestCase):
    """
    Transfers that do not.
    """

    def test_servfail_after_each_upstream_was_tried(self) -> None:
        """
        Each is tried, and then there is SERVFAIL with the reasons.
        """
        scene = Scene(upstreams=2)
        scene.begin()
        scene.network.refuse(Refused())
        scene.server.certificate = STRANGER.issue(["dot.test"])
        scene.accept()
        answer = scene.answer()
        self.assertEqual(dns.rcode.SERVFAIL, answer.rcode())
        text = answer.options[0].text
        self.assertIn("u0: connect", text)
        self.assertIn("u1: verify", text)
        self.assertEqual([], scene.server.queries)

    def test_next_upstream_follows_a_refusal_or_error(self) -> None:
        """
        One that refuses, or ends, or talks rubbish, is followed by the next; the client sees one transfer.
        """

        def refuses(scene: Scene) -> None:
            reply = dns.message.make_response(scene.query)
            reply.set_rcode(dns.rcode.REFUSED)
            scene.send(reply.to_wire())

        def hangs_up(scene: Scene) -> None:
            scene.server.close_connections()
            scene.network.settle()

        def talks_rubbish(scene: Scene) -> None:
            scene.send(messages_of(scene.query, [host(1)], set())[0])

        def says_nothing(scene: Scene) -> None:
            scene.network.advance(SILENCE_TIMEOUT)

        for does in (refuses, hangs_up, talks_rubbish, says_nothing):
            scene = Scene(upstreams=2)
            scene.begin()
            scene.accept()
            does(scene)
            scene.accept()
            scene.send(*messages_of(scene.query, whole(7, range(3)), {2}))
            self.assertEqual((1, dns.rcode.NOERROR), (len(scene.listener.parts), scene.answer().rcode()), does)

    def test_first_refusal_is_passed_on_if_all_refuse(self) -> None:
        """
        Even if the next upstream cannot be reached.
        """
        scene = Scene(upstreams=2)
        scene.begin()
        scene.accept()
        reply = dns.message.make_response(scene.query)
        reply.set_rcode(dns.rcode.NOTAUTH)
        scene.send(reply.to_wire())
        scene.network.refuse(Refused())
        self.assertEqual(dns.rcode.NOTAUTH, scene.answer().rcode())

    def test_upstream_that_is_down_is_tried_last(self) -> None:
        """
        An upstream known to be down is not the first to be asked.
        """
        scene = Scene(upstreams=2)
        scene.upstreams[0].tier = 2
        scene.begin()
        (source,) = scene.listener.sources
        self.assertEqual("u1", source._label)

    def test_transfer_broken_after_its_first_message_is_servfail(self) -> None:
        """
        After part of the zone was sent no other upstream can go on: the client gets SERVFAIL (RFC 5936 §2.2.1).
        """
        scene = Scene(upstreams=2)
        scene.begin()
        scene.accept()
        scene.send(messages_of(scene.query, whole(7, range(9)), {4})[0])
        scene.server.abort_connections()
        scene.network.settle()
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())
        self.assertEqual(1, len(scene.network.dialled))

    def test_transfer_over_tls_1_2_is_refused(self) -> None:
        """
        Zones are not sent over TLS 1.2 (RFC 9103 §7.1).
        """
        scene = Scene()
        options = GOOD.server_options()
        options.getContext().set_max_proto_version(SSL.TLS1_2_VERSION)
        scene.server._options = (GOOD, options)
        scene.begin()
        scene.accept()
        self.assertEqual([], scene.server.queries)
        self.assertIn("TLS 1.3", scene.answer().options[0].text)

    def test_transfer_above_the_limit_is_servfail(self) -> None:
        """
        Beyond the limit there is SERVFAIL at once, and with a limit of 0 no transfer at all.
        """
        scene = Scene(limit=1)
        scene.begin()
        scene.begin()
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())
        scene = Scene(limit=0)
        scene.begin()
        self.assertEqual(dns.rcode.REFUSED, scene.answer().rcode())

    def test_stop_ends_all_transfers_with_servfail(self) -> None:
        """
        When the proxy stops, transfers under way end with SERVFAIL.
        """
        scene = Scene(upstreams=2)
        scene.begin()
        scene.transfers.stopService()
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())
        scene = Scene()
        scene.begin()
        scene.accept()
        scene.send(messages_of(scene.query, [soa(1), host(1)], set())[0])
        scene.transfers.stopService()
        scene.network.settle()
        self.assertEqual((dns.rcode.SERVFAIL, []), (scene.answer().rcode(), scene.server.connections))
