"""
What goes wrong with TLS, in words and by kind.
"""

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionEnd, Incompatible, Unreachable
from dotproxy.upstream.tls_errors import chain_error, closed_how, handshake_error, lost


def ssl_error(*reasons: str) -> Failure:
    """
    Return an error as OpenSSL tells it.
    """
    return Failure(SSL.Error([("SSL routines", "", reason) for reason in reasons]))


class ChainTests(SynchronousTestCase):
    """
    What the verify callback reports.
    """

    def test_codes_are_those_of_openssl(self) -> None:
        """
        The numbers are those of <openssl/x509_vfy.h>, each with its own meaning.
        """
        meanings = {
            2: "without its root",
            7: "signature in the certificate chain is wrong",
            9: "not yet valid",
            10: "has expired",
            18: "self-signed",
            19: "unknown self-signed CA",
            20: "unknown CA",
            21: "signer was not sent",
            22: "too long",
            23: "revoked",
            24: "signer is not a CA",
            25: "as many CAs below it",
            26: "not meant for TLS servers",
            47: "may not sign for the certificate's names",
            48: "may not sign for the certificate's names",
            66: "certificate's key is too short",
            67: "key of a CA in the chain is too short",
            68: "hash that is too weak",
            79: "signer is not a CA",
        }
        for code in range(100):
            expected = meanings.get(code, f"the certificate chain is not valid (X509 error {code})")
            self.assertIn(expected, chain_error(code, 0))

    def test_error_numbers_certificates_above_the_servers(self) -> None:
        """
        The server's own is not numbered.
        """
        self.assertEqual("the certificate has expired", chain_error(10, 0))
        self.assertEqual("the certificate has expired (certificate 1 of the chain)", chain_error(10, 1))


class HandshakeTests(SynchronousTestCase):
    """
    Connections that end before they are verified.
    """

    def test_incompatible_handshake_is_lasting_and_names_the_setting(self) -> None:
        """
        A retry soon is of no use, and the setting that may help is named.
        """
        error = handshake_error(ssl_error("tlsv1 alert protocol version"))
        self.assertIsInstance(error, Incompatible)
        self.assertEqual("tls", error.phase)
        self.assertEqual(
            "the handshake failed: tlsv1 alert protocol version: it does not speak the versions of TLS that are allowed"
            " (tls_minimum)",
            error.reason,
        )

    def test_end_of_file_is_not_lasting(self) -> None:
        """
        The end of the file is no incompatibility.
        """
        error = handshake_error(ssl_error("unexpected eof while reading"))
        self.assertIsInstance(error, Unreachable)
        self.assertEqual("the handshake failed: unexpected eof while reading", error.reason)

    def test_closed_or_reset_connection_is_not_lasting(self) -> None:
        """
        A connection that is closed or breaks may be back, too.
        """
        error = handshake_error(Failure(ConnectionDone()))
        self.assertIsInstance(error, Unreachable)
        self.assertEqual(
            ("tls", "the upstream closed the connection during the handshake"), (error.phase, error.reason)
        )

    def test_openssl_error_without_text_has_a_text(self) -> None:
        """
        There is a text in any case.
        """
        for failure, text in (
            (ssl_error("one", "two"), "one; two"),
            (ssl_error(), "connection closed"),
            (Failure(SSL.Error("text")), "t; e; x; t"),
            (Failure(SSL.Error()), "Error"),
        ):
            self.assertEqual(f"the handshake failed: {text}", handshake_error(failure).reason)


class EndTests(SynchronousTestCase):
    """
    Verified connections that end.
    """

    def test_each_end_has_its_text_and_code(self) -> None:
        """
        Each way to end has its own.
        """
        for failure, words, code in (
            (Failure(ConnectionDone()), "the upstream closed the connection", ConnectionEnd.PEER_CLOSED),
            (ssl_error("bad record mac"), "TLS failed: bad record mac", ConnectionEnd.TLS_ERROR),
            (Failure(ConnectionAborted()), "the connection was given up", ConnectionEnd.ABORTED),
            (Failure(ConnectionLost()), "the connection broke", ConnectionEnd.CONNECTION_LOST),
            (Failure(OSError("odd")), "the connection broke (odd)", ConnectionEnd.CONNECTION_LOST),
        ):
            self.assertEqual(words, closed_how(failure))
            error = lost(failure)
            self.assertEqual(("read", words, code), (error.phase, error.reason, error.code))
