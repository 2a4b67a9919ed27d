"""
CAs that are replaced while an upstream is in use: what was verified by the old ones counts no more.
"""

from OpenSSL import SSL
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Unreachable, Untrusted
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.status import State, UpstreamStatus
from dotproxy.upstream.verification import Credentials, TlsChoices
from tests.upstream.scenes import AUTHORITY, GOOD, NAME, STRANGER, ZONE, Scene, make_question, make_verifier

VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)


class ReplacedCredentialsTests(SynchronousTestCase):
    """
    One upstream with a certificate of ``AUTHORITY``.
    """

    def scene(self, version: int = SSL.TLS1_3_VERSION) -> Scene:
        """
        An upstream that trusts ``AUTHORITY``, and speaks this version of TLS at most.
        """
        self.credentials = Credentials(AUTHORITY.pem)
        self.verifier = make_verifier(ca=None, credentials=self.credentials)
        scene = Scene(verifier=self.verifier)
        options = GOOD.server_options()
        options.getContext().set_max_proto_version(version)
        options.getContext().set_session_id(b"one")
        scene.server._options = (GOOD, options)
        return scene

    def resumed(self, scene: Scene) -> list[bool]:
        """
        Of each connection whether its session was resumed.
        """
        return [event[4] for event in scene.heard.events if event[0] == "connected"]

    def test_removed_ca_is_refused_on_resumption(self) -> None:
        """
        A session that could be resumed is not: the chain is verified again, and refused; nothing is asked.
        """
        for version in VERSIONS:
            scene = self.scene(version)
            for token in ("first", "second"):
                scene.connect(token)
                scene.server.close_connections()
                scene.network.settle()
            self.assertEqual([False, True], self.resumed(scene))
            self.credentials.replace(STRANGER.pem, TlsChoices())
            scene.connect("third")
            ((token, error, is_final),) = scene.told.failures
            self.assertEqual(("third", "the certificate is from an unknown CA", True), (token, error.reason, is_final))
            self.assertEqual(2, len(scene.server.queries))

    def test_same_ca_again_is_a_full_handshake(self) -> None:
        """
        No session outlives the contents it was verified by, even if the CA is still among them.
        """
        for version in VERSIONS:
            scene = self.scene(version)
            scene.connect("first")
            self.credentials.replace(STRANGER.pem + AUTHORITY.pem, TlsChoices())
            scene.upstream.renew()
            scene.connect("second")
            self.assertEqual(["first", "second"], scene.told.answered_tokens)
            scene.server.close_connections()
            scene.network.settle()
            scene.connect("third")
            self.assertEqual([False, False, True], self.resumed(scene))

    def test_handshake_that_began_before_is_refused(self) -> None:
        """
        A dial under way when the CAs are replaced does not become a connection.
        """
        scene = self.scene()
        scene.ask("question")
        self.credentials.replace(STRANGER.pem, TlsChoices())
        scene.network.accept(scene.server)
        ((_, error, _),) = scene.told.failures
        self.assertEqual("the CAs or the client certificate were replaced during the handshake", error.reason)
        self.assertEqual([], scene.server.queries)

    def test_dial_that_began_before_offers_no_new_session(self) -> None:
        """
        A session of the new CAs' context cannot be resumed in the old one's; such a dial is refused like any other.
        """
        scene = self.scene()
        old = self.verifier.handshake()
        self.credentials.replace(AUTHORITY.pem, TlsChoices())
        scene.connect("first")
        self.assertIsNotNone(self.verifier._session)
        connection = old.clientConnectionForTLS(None)
        self.assertIsNone(connection.get_session())
        with self.assertRaisesRegex(Untrusted, "were replaced during the handshake"):
            old.verify()

    def test_old_connection_leaves_no_session(self) -> None:
        """
        What a connection of before brings after the change is not kept for resumption.
        """
        for version in VERSIONS:
            scene = self.scene(version)
            scene.server.answer = lambda query: None
            scene.connect("first")
            self.credentials.replace(AUTHORITY.pem, TlsChoices())
            self.verifier.handshake()
            scene.server.connections[0].send(ZONE(scene.server.queries[0]) or b"")
            scene.network.settle()
            self.assertEqual(["first"], scene.told.answered_tokens)
            self.assertIsNone(self.verifier._session)

    def test_outstanding_questions_move_to_the_new_connection(self) -> None:
        """
        They are given back, to be asked again; the old connection gets none any more, and is closed.
        """
        scene = self.scene()
        scene.told.on_failure = lambda tokens: scene.ask(*tokens)
        scene.connect("first")
        scene.server.answer = lambda query: None
        scene.ask("a", "b")
        scene.network.settle()
        self.credentials.replace(AUTHORITY.pem + STRANGER.pem, TlsChoices())
        scene.upstream.renew()
        scene.network.settle()
        scene.server.answer = ZONE
        scene.network.accept(scene.server)
        old, new = scene.server.connections
        self.assertEqual((3, 2), (len(old.queries), len(new.queries)))
        self.assertEqual(["first", "a", "b"], scene.told.answered_tokens)
        scene.network.advance(5)
        self.assertEqual([new], scene.server.connections)
        self.assertEqual([], scene.heard.states())

    def test_isolated_connections_are_given_up(self) -> None:
        """
        What is sent over a connection of its own is sent over a new one, too.
        """
        scene = self.scene()
        scene.connect("first")
        scene.server.answer = lambda query: None
        scene.upstream.send_isolated([make_question("odd")], Isolation.UNUSUAL, is_background=False)
        scene.network.accept(scene.server)
        self.assertEqual(2, len(scene.server.queries))
        self.credentials.replace(AUTHORITY.pem, TlsChoices())
        scene.upstream.renew()
        scene.network.settle()
        self.assertEqual((["odd"], []), (scene.told.failed_tokens, scene.server.connections))

    def test_client_certificate_is_replaced(self) -> None:
        """
        An upstream that asks for a certificate is shown the new one.
        """
        scene = self.scene(SSL.TLS1_2_VERSION)  # in which it is the handshake that fails
        _, options = scene.server._options or (None, GOOD.server_options())
        options.getContext().set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        scene.connect("first")
        self.assertEqual(["first"], scene.told.failed_tokens)
        mine = AUTHORITY.issue(["client.test"])
        self.credentials.replace(AUTHORITY.pem, TlsChoices(certificate=mine.certificate_pem, key=mine.key_pem))
        scene.upstream.renew()
        scene.connect("second")
        self.assertEqual(["second"], scene.told.answered_tokens)

    def test_upstream_that_was_refused_is_dialled_at_once(self) -> None:
        """
        When the right CA is there nobody waits for the back-off.
        """
        scene = self.scene()
        self.credentials.replace(STRANGER.pem, TlsChoices())
        for number in range(6):
            scene.ask(number)
            scene.network.advance(1)
            scene.network.accept(scene.server)
        self.assertEqual(State.DOWN, scene.upstream.status_record.status.state)
        dials = scene.dials
        self.credentials.replace(AUTHORITY.pem, TlsChoices())
        scene.upstream.renew()
        self.assertEqual(dials + 1, scene.dials)
        scene.network.accept(scene.server)
        self.assertEqual(State.UP, scene.upstream.status_record.status.state)


class StatusTests(SynchronousTestCase):
    """
    What is known of an upstream: what was verified, not what was hoped.
    """

    def setUp(self) -> None:
        """
        An upstream that was not asked anything.
        """
        self.scene = Scene()

    def test_unverified_until_a_handshake(self) -> None:
        """
        Neither up nor down before it was tried; ``check`` tries it, once.
        """
        upstream = self.scene.upstream
        self.assertEqual(
            (State.UNVERIFIED, False), (upstream.status_record.status.state, upstream.status_record.status.is_working)
        )
        upstream.check()
        upstream.check()
        self.assertEqual(1, self.scene.dials)
        self.assertEqual(State.UNVERIFIED, upstream.status_record.status.state)
        self.scene.network.accept(self.scene.server)
        upstream.check()
        self.assertEqual((1, State.UP), (self.scene.dials, upstream.status_record.status.state))
        self.assertEqual(GOOD.certificate.not_valid_after_utc.timestamp(), upstream.status_record.status.not_after)
        self.assertEqual([], self.scene.server.queries)

    def test_verified_while_no_connection_is_needed(self) -> None:
        """
        A connection that was closed for being idle takes nothing away.
        """
        self.scene.connect("a")
        self.scene.network.advance(60)
        self.assertEqual([], self.scene.server.connections)
        self.assertEqual(State.UP, self.scene.upstream.status_record.status.state)

    def test_down_says_why_since_when_and_how_often(self) -> None:
        """
        The first failure begins an outage, the last says why; a handshake ends it.
        """
        upstream, network = self.scene.upstream, self.scene.network
        self.scene.connect("a")
        self.scene.server.close_connections()
        network.settle()
        network.advance(100)
        upstream.check()
        for _ in range(3):
            network.refuse(Refused(111, "Connection refused"))
            network.advance(2)
        status = upstream.status_record.status
        self.assertEqual((State.DOWN, 3), (status.state, status.failures))
        self.assertEqual((6.0, "connect: connection refused"), (round(status.down_for, 3), status.error))
        self.scene.server.certificate = AUTHORITY.issue(["other.test"])
        network.accept(self.scene.server)
        self.assertEqual(
            "verify: the certificate is for other.test, not for dot.test", upstream.status_record.status.error
        )
        self.scene.server.certificate = AUTHORITY.issue([NAME])
        network.advance(2)
        network.accept(self.scene.server)
        status = upstream.status_record.status
        self.assertEqual((State.UP, 0, ""), (status.state, status.failures, status.error))

    def test_what_another_worker_found(self) -> None:
        """
        Counts as an attempt: it is down, for that reason, from then on.
        """
        upstream = self.scene.upstream
        self.scene.network.advance(50)
        upstream.learn_down(Unreachable("connect", "connection refused", "the upstream"))
        self.scene.network.advance(0.0625)
        expected = UpstreamStatus(State.DOWN, 1, 0.0625, "connect: connection refused")
        self.assertEqual(expected, upstream.status_record.status)

    def test_replaced_cas_have_to_verify_it_again(self) -> None:
        """
        What the old ones verified says nothing of the new ones.
        """
        self.scene.connect("a")
        self.scene.upstream.renew()
        self.assertEqual(State.UNVERIFIED, self.scene.upstream.status_record.status.state)
        self.scene.upstream.check()
        self.scene.network.accept(self.scene.server)
        self.assertEqual(State.UP, self.scene.upstream.status_record.status.state)
