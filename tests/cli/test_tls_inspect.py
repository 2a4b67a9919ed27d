"""
What is shown of a certificate that nobody has verified.
"""

import ssl
from datetime import UTC, datetime, timedelta
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.tls_inspect import TlsDetails, _described
from dotproxy.testing.certificates import Authority, Issued
from tests.upstream.names import DNS, alt_names

AUTHORITY = Authority()


class Peer:
    """
    Stands for a connection to a server with this certificate.
    """

    def __init__(self, certificate: x509.Certificate) -> None:
        self._octets = certificate.public_bytes(Encoding.DER)

    def cipher(self) -> None:
        return None

    def version(self) -> str:
        return "TLSv1.3"

    def selected_alpn_protocol(self) -> None:
        return None

    def getpeercert(self, *, binary_form: bool) -> bytes:
        return self._octets


def seen(issued: Issued) -> TlsDetails:
    """
    Look at it.
    """
    return _described(cast(ssl.SSLSocket, Peer(issued.certificate)), 0.0, 0.0)


class LookTests(SynchronousTestCase):
    """
    Certificates of strangers.
    """

    def test_names_and_issuer_are_escaped_and_limited(self) -> None:
        """
        What they hold goes to a terminal: nothing in it moves the cursor, and it has an end.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a\x1b[2J\nverdict verified")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        found = seen(Issued(builder.sign(key, hashes.SHA256()), key))
        self.assertEqual("CN=a\\x1b[2J\\nverdict verified", found.issuer)
        found = seen(AUTHORITY.issue([], san=alt_names((DNS, b"a\x1b[2J\nb"), *[(DNS, b"l" * 300)] * 200)))
        self.assertEqual("a\\x1b[2J\\nb", found.names[0])
        self.assertEqual((21, "181 more"), (len(found.names), found.names[-1]))

    def test_unreadable_names_are_left_out(self) -> None:
        """
        Are not shown; the rest is.
        """
        for entry in ((0xA3, b"\x30\0"), (DNS, b"\xff"), (0x87, b"123")):
            found = seen(AUTHORITY.issue([], san=alt_names((DNS, b"dot.test"), entry)))
            self.assertEqual(((), ""), (found.names, found.error))
            self.assertEqual("CN=dotproxy throw-away CA", found.issuer)
