"""
How handshakes with clients over TLS are made.
"""

import contextlib

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.tls_context import CurrentContext, ServerTls, _choose_protocol
from dotproxy.testing.certificates import Authority

AUTHORITY = Authority()
ISSUED = AUTHORITY.issue(["dot.test"])


class ContextTests(SynchronousTestCase):
    """
    Handshakes in memory between a context and a client.
    """

    def shake(self, context: SSL.Context, offered: list[bytes] | None = None, maximum: int = 0) -> SSL.Connection:
        """
        Return the client's side of a handshake.
        """
        client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client_context.set_alpn_protos([b"dot"] if offered is None else offered)
        if maximum:
            client_context.set_max_proto_version(maximum)
        client, server = SSL.Connection(client_context), SSL.Connection(context)
        client.set_connect_state()
        server.set_accept_state()
        for _ in range(6):
            for one, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(65536))
        return client

    def test_lifetime_of_tickets(self) -> None:
        """
        A session can be resumed for two hours.
        """
        context = ServerTls(ISSUED.certificate_pem, ISSUED.key_pem).context()
        self.assertEqual(7200, context.get_timeout())

    def test_minimum_version_is_tls_1_2_or_1_3(self) -> None:
        """
        TLS 1.2 at least, or 1.3.
        """
        lenient, strict = (
            ServerTls(ISSUED.certificate_pem, ISSUED.key_pem, minimum=m).context() for m in ("1.2", "1.3")
        )
        self.assertEqual("TLSv1.3", self.shake(lenient).get_protocol_version_name())
        self.assertEqual("TLSv1.2", self.shake(lenient, maximum=SSL.TLS1_2_VERSION).get_protocol_version_name())
        self.assertEqual("TLSv1.3", self.shake(strict).get_protocol_version_name())
        self.assertRaises(SSL.Error, self.shake, strict, maximum=SSL.TLS1_2_VERSION)

    def test_alpn_is_dot_if_offered(self) -> None:
        """
        "dot" if it is among what a client offers, which need not offer anything; else the handshake fails (RFC 7301 §3.2).
        """
        context = ServerTls(ISSUED.certificate_pem, ISSUED.key_pem).context()
        self.assertEqual(b"dot", self.shake(context, [b"h2", b"dot"]).get_alpn_proto_negotiated())
        self.assertRaises(SSL.Error, self.shake, context, [b"h2"])
        self.assertEqual(b"dot", _choose_protocol(SSL.Connection(context), [b"x", b"dot"]))
        self.assertRaises(SSL.Error, _choose_protocol, SSL.Connection(context), [])

    def test_client_certificate_is_required_with_a_client_ca(self) -> None:
        """
        A client without one is refused if there is a CA for them.
        """
        context = ServerTls(ISSUED.certificate_pem, ISSUED.key_pem, AUTHORITY.pem).context()
        self.assertRaises(SSL.Error, self.shake, context, maximum=SSL.TLS1_2_VERSION)

    def test_key_of_another_certificate_is_an_error(self) -> None:
        """
        It is raised when the context is made.
        """
        other = AUTHORITY.issue(["other.test"])
        self.assertRaises(SSL.Error, ServerTls(ISSUED.certificate_pem, other.key_pem).context)

    def test_new_handshakes_use_the_replaced_context(self) -> None:
        """
        New handshakes begin with the context there is then.
        """
        first, second = (ServerTls(ISSUED.certificate_pem, ISSUED.key_pem).context() for _ in range(2))
        current = CurrentContext(first)
        self.assertIs(first, current.serverConnectionForTLS(None).get_context())
        current.context = second
        self.assertIs(second, current.serverConnectionForTLS(None).get_context())
