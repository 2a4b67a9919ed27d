"""
Who an upstream must be, and whether the peer of a TLS connection is that.

Decides, for every connection, full or resumed handshake alike: the chain, the dates, the name (or the
IP address when no name is configured; ``certificate_names``), the SPKI pins.  Any doubt, and any exception, is a
refusal.

Twisted's own check is not relied on: it accepts a certificate with no usable subjectAltName for any
name, and OpenSSL runs no verify callback at all on a resumed session.

A session may be resumed only in the context it was made in, and every upstream has its own; what was
verified of the chain when a session was made (it is not sent again) is kept beside the session.  It may be resumed for
``MAX_SESSION_AGE``, and no longer than every certificate of that chain is valid; tickets that come over a resumed
connection do not extend that.  When the CAs or the client certificate are replaced, each upstream gets a new context
and forgets its session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import Certificate as X509Certificate
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey, X509StoreFlags
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, CertificateOptions, platformTrust, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.errors import Untrusted, UpstreamError
from dotproxy.policy.pins import matches_pins, pin_of, show_pin
from dotproxy.upstream.certificate_names import check_names, printable
from dotproxy.upstream.post_handshake import PostHandshakeWatch
from dotproxy.upstream.tls_errors import chain_error, handshake_error
from dotproxy.upstream.tls_reads import new_connection

#: How long after the full handshake that verified it a session may be resumed.
MAX_SESSION_AGE = timedelta(hours=1)

#: With TLS 1.2: ciphers with forward secrecy and authenticated encryption, as RFC 9325 §4.2 recommends.  TLS 1.3 has no
#: others.
DEFAULT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: Not in the pyOpenSSL of every OpenSSL.
_NO_RENEGOTIATION: int = getattr(SSL, "OP_NO_RENEGOTIATION", 1 << 30)


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """
    What a full handshake verified of a certificate chain, at ``verified_at``.

    ``pins`` are of its keys, the server's own first.  All of its certificates are valid from ``not_before`` to
    ``not_after``.  ``anchor`` is the subject of its last, the one that is trusted; ``is_root`` whether that signed
    itself.
    """

    pins: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime
    anchor: str
    is_root: bool
    verified_at: datetime

    def is_resumable(self, now: datetime) -> bool:
        """
        Whether sessions of that handshake may be resumed now; not if the clock was set back, either.
        """
        return self.verified_at <= now < min(self.verified_at + MAX_SESSION_AGE, self.not_after)


class ResumableSession(NamedTuple):
    """
    A TLS session, and what was verified when it began.
    """

    session: SSL.Session
    chain: VerifiedChain


@dataclass(frozen=True, slots=True)
class Identity:
    """
    What is known of a verified peer.

    ``verified`` is the name or address its certificate was verified for, ``not_after`` when that ends, ``chain`` what
    the full handshake verified.
    """

    verified: str
    tls_version: str
    cipher: str
    resumed: bool
    chain: VerifiedChain
    not_after: datetime


@dataclass(frozen=True)
class TlsChoices:
    """
    What is left to choose of TLS: the oldest version spoken (``1.2`` or ``1.3``), the ciphers of TLS 1.2 as OpenSSL
    spells a list of them ("" for ``DEFAULT_CIPHERS``), and the certificate (a chain, PEM) and key (PEM) to show to
    upstreams.
    """

    minimum: str = "1.2"
    ciphers: str = ""
    certificate: bytes | None = None
    key: bytes | None = None

    def options(self, roots: Any) -> CertificateOptions:
        """
        Return a TLS client's options that hold to it.

        :raises Exception: whatever is wrong with it.
        """
        mine: dict[str, Any] = {}
        if self.certificate is not None and self.key is not None:
            chain = [X509.from_cryptography(one) for one in load_pem_x509_certificates(self.certificate)]
            key = PKey.from_cryptography_key(cast(Any, load_pem_private_key(self.key, None)))
            mine = {"privateKey": key, "certificate": chain[0], "extraCertChain": chain[1:]}
        options = CertificateOptions(trustRoot=roots, enableSessionTickets=True, **mine)
        context = options.getContext()
        context.set_options(_NO_RENEGOTIATION)
        if self.minimum == "1.3":
            context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_cipher_list((self.ciphers or DEFAULT_CIPHERS).encode())
        return options


class Credentials:
    """
    What all connections of a proxy are authenticated with: ``ca``, PEM with the certificates to trust (roots, or
    intermediate CAs without theirs), None for the system's, and ``tls``.

    Both may be replaced while connections stand; ``generation`` counts how often they were.
    """

    __slots__ = ("ca", "generation", "tls")

    def __init__(self, ca: bytes | None = None, tls: TlsChoices | None = None) -> None:
        self.ca = ca
        self.tls = tls or TlsChoices()
        self.generation = 0

    def replace(self, ca: bytes | None, tls: TlsChoices) -> None:
        """
        Have these from now on; no handshake that began with the old ones is accepted any more.
        """
        self.ca, self.tls = ca, tls
        self.generation += 1

    def options(self) -> CertificateOptions:
        """
        Return the options of a new context.

        :raises Exception: whatever is wrong with them.
        """
        if self.ca is None:
            return self.tls.options(platformTrust())
        anchors = load_pem_x509_certificates(self.ca)
        roots = trustRootFromCertificates([Certificate(X509.from_cryptography(one)) for one in anchors])
        options = self.tls.options(roots)
        subjects = {one.subject for one in anchors}
        if any(one.issuer not in subjects for one in anchors):
            # An intermediate CA without its root: it is an anchor itself (RFC 5280 §6.1.1).  Where all roots are there,
            # chains go on to them, as pins may be of a root's key.
            store = options.getContext().get_cert_store()
            assert store is not None
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
        return options


class ServerVerifier:
    """
    How one address of an upstream is authenticated.

    ``name`` is an A-label host name without final dot, or None to have ``address`` verified instead.
    ``ca`` is PEM with the roots to trust, None for the system's; or there are ``credentials``, which may be
    replaced.  ``now`` tells the time certificates are judged by.
    """

    def __init__(
        self,
        *,
        address: str,
        name: str | None,
        pins: tuple[bytes, ...] = (),
        ca: bytes | None = None,
        now: Callable[[], datetime],
        tls: TlsChoices | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self.name = name
        self.pins = pins
        self._credentials = credentials or Credentials(ca, tls)
        self._now = now
        self._options: CertificateOptions | None = None
        self._generation = 0
        self._session: ResumableSession | None = None

    def handshake(self) -> Handshake:
        """
        Return what is needed for one connection attempt.

        :raises Exception: whatever stands in the way of using TLS at all, as a system that forbids it.
        """
        if self._options is None or not self.is_current(self._options):
            # What the old CAs vouched for must not be resumed under the new ones.
            self._options = self._session = None
            # Made now, since later errors are not reported.
            self._options = self._credentials.options()
            self._generation = self._credentials.generation
        return Handshake(self, self._options)

    def is_current(self, options: CertificateOptions) -> bool:
        """
        Whether a connection with these options has the present context.
        """
        return options is self._options and self._generation == self._credentials.generation

    def resumable(self, options: CertificateOptions) -> ResumableSession | None:
        """
        Return the session that a connection with these options may resume now.
        """
        if self._session is not None and not self._session.chain.is_resumable(self._now()):
            self._session = None
        return self._session if self.is_current(options) else None

    def connection(self, options: CertificateOptions, resumed: ResumableSession | None) -> SSL.Connection:
        """
        Return a new connection in this upstream's own context: TLS ≥ 1.2, ALPN ``dot``, SNI if there is
        a name, and the session to resume.
        """
        connection = new_connection(options.getContext())
        connection.set_alpn_protos([b"dot"])
        connection.set_info_callback(PostHandshakeWatch())
        if self.name:
            connection.set_tlsext_host_name(self.name.encode("ascii"))
        if resumed is not None:
            connection.set_session(resumed.session)
        return connection

    def remember(self, session: SSL.Session | None, chain: VerifiedChain) -> None:
        """
        Keep a verified connection's session, with what the full handshake before it verified.
        """
        if session is not None:
            self._session = ResumableSession(session, chain)

    def verify(self, connection: SSL.Connection, resumed: VerifiedChain | None) -> Identity:
        """
        Return who the peer is; if its session was resumed, ``resumed`` is what had been verified when it began.

        :raises Untrusted: if that is not who it must be.
        """
        certificate = connection.get_peer_certificate()
        if certificate is None:
            raise Untrusted("verify", "no certificate was sent")
        x509 = certificate.to_cryptography()
        self._check_dates(x509)
        check_names(x509, self.name, self.address)
        chain = resumed or _verified_chain(connection, certificate, self._now())
        self._check_chain_dates(chain)
        if not matches_pins(self.pins, chain.pins):
            raise Untrusted("verify", f"none of the pins matches; the key's pin is {show_pin(chain.pins[0])}")
        return Identity(
            self.name or self.address,
            connection.get_protocol_version_name(),
            connection.get_cipher_name() or "",
            resumed is not None,
            chain,
            x509.not_valid_after_utc,
        )

    def _check_dates(self, x509: X509Certificate) -> None:
        # OpenSSL does this on a full handshake; a resumed one would outlive its certificate.
        now = self._now()
        if now < x509.not_valid_before_utc:
            raise Untrusted(
                "verify", f"the certificate is not valid before {x509.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            )
        if now > x509.not_valid_after_utc:
            raise Untrusted("verify", f"the certificate expired on {x509.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")

    def _check_chain_dates(self, chain: VerifiedChain) -> None:
        now = self._now()
        if now < chain.not_before:
            raise Untrusted("verify", f"a CA in the chain is not valid before {chain.not_before:%Y-%m-%d %H:%M} UTC")
        if now > chain.not_after:
            raise Untrusted("verify", f"a CA in the chain expired on {chain.not_after:%Y-%m-%d %H:%M} UTC")


@implementer(IOpenSSLClientConnectionCreator)
class Handshake:
    """
    One TLS handshake, from its first octet to the verification of the server.

    Owned by the ``VerifyingProtocol``.  Ends with ``verify`` or with ``explain``.
    """

    def __init__(self, verifier: ServerVerifier, options: CertificateOptions) -> None:
        self._verifier = verifier
        self._options = options
        self._connection: SSL.Connection | None = None
        self._chain_error = ""
        self._offered: ResumableSession | None = None
        self._resumed = True  # until OpenSSL asks us about a chain, which it does in every full handshake
        self.identity: Identity | None = None

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        Called by Twisted when the TCP connection is made.
        """
        self._offered = self._verifier.resumable(self._options)
        connection = self._verifier.connection(self._options, self._offered)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._chain_judged)
        self._connection = connection
        return connection

    def verify(self) -> Identity:
        """
        Return the verified identity of the server, after the handshake.

        :raises Untrusted: if it is not the configured server.
        """
        if self._connection is None or self._chain_error:
            raise Untrusted("verify", self._chain_error or "no handshake took place")
        if not self._verifier.is_current(self._options):
            raise Untrusted("verify", "the CAs or the client certificate were replaced during the handshake")
        if not self._resumed:
            self.identity = self._verifier.verify(self._connection, None)
        elif self._offered is not None:
            self.identity = self._verifier.verify(self._connection, self._offered.chain)
        else:
            raise Untrusted("verify", "a session was resumed that was not offered")
        return self.identity

    def remember_session(self) -> None:
        """
        Keep the session for the next connection; to be called once application data came, since only
        then have TLS 1.3's tickets.
        """
        if self._connection is not None and self.identity is not None and self._verifier.is_current(self._options):
            self._verifier.remember(self._connection.get_session(), self.identity.chain)

    def explain(self, failure: Failure) -> UpstreamError:
        """
        Return why the connection ended before it was verified.
        """
        if self._chain_error:
            return Untrusted("verify", self._chain_error)
        return handshake_error(failure)

    def _chain_judged(self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
        self._resumed = False
        if not ok and not self._chain_error:
            self._chain_error = chain_error(error, depth)
        return bool(ok)


def _verified_chain(connection: SSL.Connection, leaf: X509, now: datetime) -> VerifiedChain:
    chain = [one.to_cryptography() for one in connection.get_verified_chain() or [leaf]]
    anchor = chain[-1]
    return VerifiedChain(
        tuple(pin_of(one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)) for one in chain),
        max(one.not_valid_before_utc for one in chain),
        min(one.not_valid_after_utc for one in chain),
        printable(anchor.subject.rfc4514_string()),
        anchor.subject == anchor.issuer,
        now,
    )
