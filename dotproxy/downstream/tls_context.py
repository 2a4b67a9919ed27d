"""
The OpenSSL context of TLS listeners (RFC 7858, RFC 9325).

Decides versions, ciphers, ALPN, session tickets and whether clients need a certificate.  ``service.served_tls`` decides
where the certificate comes from and when it is replaced.

* TLS 1.2 with ECDHE and an AEAD, or 1.3; no compression, no renegotiation, no early data.
* A client that sends ALPN must offer ``dot``, else the handshake ends with ``no_application_protocol`` (RFC 7301 §3.2);
  one without ALPN is served (RFC 7858 does not mention ALPN).
* Sessions are resumed by ticket.  The keys of tickets belong to the context, are never written to a file, and are gone
  with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey, X509Name
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

ALPN = b"dot"

#: Cipher suites for TLS 1.2; all those of TLS 1.3 are allowed.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: Seconds for which a session may be resumed.
TICKET_LIFETIME = 7200

_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE

#: The session ID context, which OpenSSL needs to resume sessions with client certificates.
_SESSION_ID = b"dotproxy"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """
    The certificate that clients are shown, and the one they must show.

    ``certificate`` is a chain, the server's own first, and ``key`` its key without a passphrase, both PEM.
    ``client_ca`` is PEM with the CAs of clients that are served, None for all clients.  ``minimum`` is the oldest
    version of TLS spoken, ``ciphers`` those of TLS 1.2 as OpenSSL spells a list, "" for ``CIPHERS``.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None
    minimum: str = "1.2"
    ciphers: str = ""

    @property
    def not_after(self) -> datetime:
        """
        When the certificate expires.
        """
        own, *_ = load_pem_x509_certificates(self.certificate)
        return own.not_valid_after_utc

    def context(self) -> SSL.Context:
        """
        Return a new context, with keys of its own for tickets.

        :raises Exception: if a file is invalid; OpenSSL's and cryptography's errors are of many classes.
        """
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_options(_OPTIONS)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_min_proto_version(SSL.TLS1_3_VERSION if self.minimum == "1.3" else SSL.TLS1_2_VERSION)
        context.set_cipher_list((self.ciphers or CIPHERS).encode())
        context.set_alpn_select_callback(_choose_protocol)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(_SESSION_ID)
        context.set_timeout(TICKET_LIFETIME)
        own, *issuers = [X509.from_cryptography(one) for one in load_pem_x509_certificates(self.certificate)]
        context.use_certificate(own)
        for issuer in issuers:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(PKey.from_cryptography_key(cast(Any, load_pem_private_key(self.key, None))))
        context.check_privatekey()
        if self.client_ca is not None:
            _require_certificate(context, self.client_ca)
        return context


@implementer(IOpenSSLServerConnectionCreator)
class CurrentContext:
    """
    The context of new handshakes; replacing it does not affect connections that exist.

    ``new_connection`` makes an OpenSSL connection in a context.
    """

    def __init__(
        self, context: SSL.Context, new_connection: Callable[[SSL.Context], SSL.Connection] = SSL.Connection
    ) -> None:
        self.context = context
        self._new_connection = new_connection

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """
        Return an OpenSSL connection in the current context; called by Twisted for each TCP connection.
        """
        return self._new_connection(self.context)


def _require_certificate(context: SSL.Context, ca: bytes) -> None:
    """
    Require a certificate of clients, issued by one of the CAs in PEM.
    """
    store = context.get_cert_store()
    assert store is not None
    names: list[X509Name] = []
    for root in load_pem_x509_certificates(ca):
        certificate = X509.from_cryptography(root)
        store.add_cert(certificate)
        names.append(certificate.get_subject())
    context.set_client_ca_list(names)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, None)


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    if ALPN in offered:
        return ALPN
    # Any exception makes OpenSSL send no_application_protocol; Twisted expects an SSL.Error of a handshake.
    raise SSL.Error([("SSL routines", "", "no application protocol")])
