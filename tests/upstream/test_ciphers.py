"""
Which ciphers are spoken with TLS 1.2, and what is said of a server that has none of them.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Incompatible
from dotproxy.testing.certificates import Issued
from dotproxy.upstream.verification import DEFAULT_CIPHERS, TlsChoices
from tests.upstream.scenes import AUTHORITY, NAME, Scene, make_verifier


def make_rsa_certificate() -> Issued:
    """
    RSA key exchange needs an RSA key.
    """
    key = rsa.generate_private_key(65537, 2048)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(AUTHORITY.root.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    return Issued(builder.sign(AUTHORITY.root.key, hashes.SHA256()), cast(Any, key))


RSA = make_rsa_certificate()


class CipherTests(SynchronousTestCase):
    """
    A server with an RSA key that speaks TLS 1.2 and one cipher.
    """

    def connect(self, cipher: str, tls: TlsChoices | None = None) -> Scene:
        scene = Scene(RSA, make_verifier(tls=tls))
        options = RSA.server_options()
        options.getContext().set_max_proto_version(SSL.TLS1_2_VERSION)
        options.getContext().set_cipher_list(cipher.encode())
        scene.server._options = (RSA, options)
        scene.connect("question")
        return scene

    def test_recommended_ciphers_are_accepted(self) -> None:
        """
        Forward secrecy and authenticated encryption (RFC 9325 §4.2).
        """
        for cipher in (
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ):
            scene = self.connect(cipher)
            self.assertEqual(["question"], scene.told.answered_tokens, cipher)
            self.assertEqual(cipher, scene.upstream._pool.select().identity.cipher)

    def test_weak_ciphers_are_refused(self) -> None:
        """
        No RSA key exchange, no CBC, no finite-field Diffie-Hellman; no query is sent, and the error names the setting.
        """
        for cipher in (
            "AES128-SHA",
            "AES256-SHA256",
            "AES128-GCM-SHA256",
            "AES128-CCM",
            "ECDHE-RSA-AES128-SHA",
            "ECDHE-RSA-AES256-SHA384",
            "DHE-RSA-AES128-GCM-SHA256",
        ):
            scene = self.connect(cipher)
            ((_, error, _),) = scene.told.failures
            self.assertIsInstance(error, Incompatible)
            self.assertEqual("tls", error.phase)
            self.assertIn("it has none of the ciphers offered with TLS 1.2 (tls_ciphers allows others)", error.reason)
            self.assertEqual([], scene.server.queries)

    def test_setting_overrides(self) -> None:
        """
        ``tls_ciphers`` allows what is not allowed by default.
        """
        scene = self.connect("AES128-SHA", TlsChoices(ciphers="AES128-SHA"))
        self.assertEqual(["question"], scene.told.answered_tokens)
        self.assertEqual("AES128-SHA", scene.upstream._pool.select().identity.cipher)

    def test_default_ciphers_are_ephemeral_and_aead(self) -> None:
        """
        Each cipher of the default is one of TLS 1.3, or has ephemeral keys, a certificate, and AES-GCM or ChaCha20.
        """
        connection = SSL.Connection(TlsChoices().options(None).getContext(), None)
        ciphers = [one for one in connection.get_cipher_list() if not one.startswith("TLS_")]
        self.assertEqual(6, len(ciphers), DEFAULT_CIPHERS)
        for cipher in ciphers:
            self.assertRegex(cipher, r"^ECDHE-(RSA|ECDSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)$")

    def test_server_with_an_old_version_is_refused_with_the_settings_name(self) -> None:
        """
        The error for a TLS version that is too old names the setting.
        """
        scene = self.connect("ECDHE+AESGCM", TlsChoices("1.3"))
        self.assertIn(
            "does not speak the versions of TLS that are allowed (tls_minimum)", scene.told.failures[0][1].reason
        )
