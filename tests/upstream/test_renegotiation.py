"""
A TLS 1.2 server that wants to shake hands again: it could show another certificate, which nobody would look at.
"""

import contextlib

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream.verification import Credentials
from tests.upstream.scenes import AUTHORITY, GOOD, Scene, make_verifier

OTHER = AUTHORITY.issue(["other.test"])
REASON = (
    "TLS failed: the server asked to renegotiate, which could replace its certificate; it is refused (RFC 9325 §3.5)"
)


class RenegotiationTests(SynchronousTestCase):
    """
    A verified connection to a TLS 1.2 server, which then asks for another handshake.
    """

    def renegotiated(self) -> Scene:
        """
        A scene in which the server asked for another handshake, to show another certificate.
        """
        scene = Scene(verifier=make_verifier())
        options = GOOD.server_options()
        options.getContext().set_max_proto_version(SSL.TLS1_2_VERSION)
        scene.server._options = (GOOD, options)
        scene.connect("first")
        self.assertEqual(["first"], scene.told.answered_tokens)
        tls = scene.server.connections[0].transport
        tls.getHandle().set_context(OTHER.server_options().getContext())
        self.assertTrue(tls.getHandle().renegotiate())
        with contextlib.suppress(SSL.WantReadError):
            tls.getHandle().do_handshake()
        tls._flushSendBIO()
        scene.network.settle()
        return scene

    def check_refused(self) -> None:
        """
        The connection has ended, for a reason that says why, and the question after it is asked over another.
        """
        scene = self.renegotiated()
        scene.ask("second")
        scene.network.settle()
        self.assertEqual(1, len(scene.server.queries), "the server that renegotiated was asked")
        self.assertEqual([], scene.server.connections)
        self.assertEqual([REASON], [event[1] for event in scene.heard.events if event[0] == "closed"])
        scene.network.accept(scene.server)
        self.assertEqual(["first", "second"], scene.told.answered_tokens)

    def test_renegotiation_ends_the_connection(self) -> None:
        """
        No query goes over a connection whose server requested another handshake (RFC 9325 §3.5).
        """
        self.check_refused()

    def test_renegotiation_without_the_option(self) -> None:
        """
        Where OpenSSL would agree to it, the first message of the second handshake ends the connection.
        """
        self.patch(SSL.Context, "set_options", lambda context, options: None)
        self.check_refused()

    def test_openssl_is_told_to_decline_renegotiation(self) -> None:
        """
        The context has the option, too.
        """
        for credentials in (Credentials(), Credentials(AUTHORITY.pem)):
            self.assertTrue(credentials.options().getContext().set_options(0) & SSL.OP_NO_RENEGOTIATION)
