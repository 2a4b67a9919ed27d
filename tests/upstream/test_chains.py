"""
Chains: what may be an anchor, and for how long what was verified of one counts when a session is resumed.
"""

from dataclasses import replace
from datetime import timedelta

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.testing.certificates import Authority, Issued
from dotproxy.upstream.verification import Credentials, ServerVerifier, TlsChoices
from tests.upstream.scenes import AUTHORITY, GOOD, NAME, Scene, later, make_verifier

MINUTE = timedelta(minutes=1)
VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)


def serve(
    issued: Issued,
    intermediate: Authority | None = None,
    version: int = SSL.TLS1_3_VERSION,
    verifier: ServerVerifier | None = None,
    **changes,
) -> Scene:
    """
    Return an upstream whose server shows a certificate, and that of the CA that signed it if that is no root.
    """
    scene = Scene(issued, verifier or make_verifier(**changes))
    options = issued.server_options()
    options.getContext().set_max_proto_version(version)
    options.getContext().set_session_id(b"one")
    if intermediate is not None:
        options.getContext().add_extra_chain_cert(intermediate.root.certificate)
    scene.server._options = (issued, options)
    return scene


class AnchorTests(SynchronousTestCase):
    """
    What ``ca_file`` may hold.
    """

    def test_intermediate_ca_is_an_anchor_without_its_root(self) -> None:
        """
        An intermediate CA is an anchor without its root, sent by the server or not.
        """
        intermediate = Authority("one of many", parent=AUTHORITY)
        for sent in (intermediate, None):
            scene = serve(intermediate.issue([NAME]), sent, ca=intermediate.pem)
            scene.connect("question")
            self.assertEqual(["question"], scene.told.answered_tokens)
            chain = scene.upstream._pool.select().identity.chain
            self.assertEqual(("CN=one of many", False), (chain.anchor, chain.is_root))
            self.assertEqual(2, len(chain.pins))

    def test_intermediate_anchor_covers_its_own_certificates_only(self) -> None:
        """
        What the same root signed otherwise is not trusted: neither another intermediate's nor its own.
        """
        named, other = Authority("named", parent=AUTHORITY), Authority("other", parent=AUTHORITY)
        for issued, sent in ((other.issue([NAME]), other), (GOOD, None)):
            scene = serve(issued, sent, ca=named.pem)
            scene.connect("question")
            self.assertIn("the certificate is from an unknown CA", scene.told.failures[0][1].reason)
            self.assertEqual([], scene.server.queries)

    def test_root_anchor_verifies_the_chain(self) -> None:
        """
        With the root the chain goes to it, whether the intermediate is named too or not.
        """
        intermediate = Authority("one of many", parent=AUTHORITY)
        for ca in (AUTHORITY.pem, AUTHORITY.pem + intermediate.pem):
            scene = serve(intermediate.issue([NAME]), intermediate, ca=ca)
            scene.connect("question")
            chain = scene.upstream._pool.select().identity.chain
            self.assertEqual(("CN=dotproxy throw-away CA", True), (chain.anchor, chain.is_root))
            self.assertEqual(3, len(chain.pins))

    def test_server_certificate_is_an_anchor_for_itself_only(self) -> None:
        """
        A server's own certificate is an anchor for itself, and for nothing that its key signs.
        """
        scene = serve(GOOD, ca=GOOD.certificate_pem)
        scene.connect("question")
        self.assertEqual(["question"], scene.told.answered_tokens)

    def test_missing_root_in_the_system_store_names_the_remedy(self) -> None:
        """
        The system's store takes roots; what is to be done with an intermediate is said.
        """
        intermediate = Authority("one of many", parent=AUTHORITY)
        credentials = Credentials(intermediate.pem)
        options = credentials.options
        self.patch(Credentials, "options", lambda self: without_partial_chains(options()))
        scene = serve(intermediate.issue([NAME]), intermediate, ca=None, credentials=credentials)
        scene.connect("question")
        self.assertIn("ca_file may name the intermediate itself", scene.told.failures[0][1].reason)


def without_partial_chains(options):
    """
    Return the same options, with a store as the system's is.
    """
    fresh = TlsChoices().options(None)
    options.trustRoot._addCACertsToContext(fresh.getContext())
    return fresh


class SessionAgeTests(SynchronousTestCase):
    """
    A session that is resumed again and again; the wall clock is the test's.
    """

    def scene(self, *, version: int = SSL.TLS1_3_VERSION, ends: timedelta = timedelta(days=300)) -> Scene:
        """
        A server whose certificate an intermediate signed that ends then.
        """
        intermediate = Authority("one of many", parent=AUTHORITY, ends=ends)
        self.verifier = make_verifier()
        return serve(intermediate.issue([NAME]), intermediate, version, self.verifier)

    def connect(self, scene: Scene, after: timedelta) -> bool | str:
        """
        Connect so long after the beginning; return whether a session was resumed, or why there is no connection.
        """
        self.verifier._now = later(seconds=after.total_seconds())
        failures = len(scene.told.failures)
        scene.network.advance(2)
        scene.connect(f"after {after}")
        if len(scene.told.failures) > failures:
            return scene.told.failures[-1][1].reason
        scene.server.close_connections()
        scene.network.settle()
        return [event[4] for event in scene.heard.events if event[0] == "connected"][-1]

    def test_full_handshake_follows_after_an_hour(self) -> None:
        """
        An hour after the full handshake there is another, however often the session was resumed in between.
        """
        for version in VERSIONS:
            scene = self.scene(version=version)
            seen = [self.connect(scene, minutes * MINUTE) for minutes in (0, 20, 40, 59, 61, 80, 119, 122)]
            self.assertEqual([False, True, True, True, False, True, True, False], seen)

    def test_session_ends_with_any_certificate_of_its_chain(self) -> None:
        """
        No session outlives any certificate of its chain; the chain is looked at again, and refused.
        """
        for version in VERSIONS:
            scene = self.scene(version=version, ends=30 * MINUTE)
            self.assertEqual([False, True], [self.connect(scene, minutes * MINUTE) for minutes in (0, 29)])
            asked = len(scene.server.queries)
            self.assertIn("a CA in the chain expired on", str(self.connect(scene, 31 * MINUTE)))
            self.assertEqual(asked, len(scene.server.queries))

    def test_session_from_the_future_is_not_resumed(self) -> None:
        """
        A session that would be from the future is not resumed.
        """
        scene = self.scene()
        self.assertEqual([False, False], [self.connect(scene, minutes * MINUTE) for minutes in (0, -1)])

    def test_session_may_be_resumed_for_an_hour_within_its_chain(self) -> None:
        """
        From its handshake on, for an hour, and before any certificate of the chain ends.
        """
        scene = self.scene(ends=30 * MINUTE)
        self.connect(scene, 0 * MINUTE)
        chain = self.verifier._session.chain
        second, hour_later = timedelta(seconds=1), chain.verified_at + timedelta(hours=1)
        for one, bound in ((chain, chain.not_after), (replace(chain, not_after=hour_later + MINUTE), hour_later)):
            self.assertTrue(one.is_resumable(bound - second))
            self.assertFalse(one.is_resumable(bound))
        self.assertTrue(chain.is_resumable(chain.verified_at))
        self.assertFalse(chain.is_resumable(chain.verified_at - second))

    def test_resumed_connection_is_refused_after_its_chain_ended(self) -> None:
        """
        The chain's end between the dial and the verification counts.
        """
        scene = self.scene(ends=30 * MINUTE)
        self.connect(scene, 0 * MINUTE)
        self.patch(type(self.verifier._session.chain), "is_resumable", lambda chain, now: True)
        self.assertIn("a CA in the chain expired on", str(self.connect(scene, 31 * MINUTE)))

    def test_resumed_session_is_checked_by_its_own_chain(self) -> None:
        """
        What counts of a resumed session is its own chain, not that of one that was made since.
        """
        scene = self.scene()
        self.connect(scene, 0 * MINUTE)
        first = self.verifier._session
        handshake = self.verifier.handshake()
        handshake.clientConnectionForTLS(None)
        self.verifier.remember(first.session, replace(first.chain, pins=(b"another's",)))
        self.assertEqual(first.chain.pins, handshake._offered.chain.pins)

    def test_client_certificate_drops_the_session(self) -> None:
        """
        Another client certificate, or none any more, is shown in a full handshake; the same contents change nothing.
        """
        for version in VERSIONS:
            credentials = Credentials(AUTHORITY.pem)
            mine = AUTHORITY.issue(["client.test"])
            shown = TlsChoices(certificate=mine.certificate_pem, key=mine.key_pem)
            self.verifier = make_verifier(ca=None, credentials=credentials)
            scene = serve(GOOD, None, version, self.verifier)
            seen = [self.connect(scene, 0 * MINUTE), self.connect(scene, MINUTE)]
            for tls in (shown, TlsChoices()):
                credentials.replace(AUTHORITY.pem, tls)
                seen += [self.connect(scene, MINUTE), self.connect(scene, MINUTE)]
            self.assertEqual([False, True] * 3, seen)
