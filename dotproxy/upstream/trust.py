"""
Who an upstream must be, and whether the peer of a TLS connection is that.

Decides, for every connection, full or resumed handshake alike: the chain, the dates, the name (or the
IP address when no name is configured), the SPKI pins.  Any doubt, and any exception, is a refusal.

Twisted's own check is not relied on: it accepts a certificate with no usable subjectAltName for any
name, and OpenSSL runs no verify callback at all on a resumed session.  Names are looked for in
subjectAltName alone, never in the subject (RFC 8310 §8.1).

A session may be resumed only in the context it was made in, and every upstream has its own; what was
verified of the chain when a session was made (it is not sent again) is kept beside the session.  When the
CAs or the client certificate are replaced, each upstream gets a new context and forgets its session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import Certificate as X509Certificate
from cryptography.x509 import (
    DNSName,
    ExtensionNotFound,
    IPAddress,
    SubjectAlternativeName,
    load_pem_x509_certificates,
)
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from service_identity import VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, CertificateOptions, platformTrust, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.errors import ConnectionEnd, ConnectionGone, Incompatible, Unreachable, Untrusted, UpstreamError
from dotproxy.policy.pins import accepts, pin_of, show_pin
from dotproxy.upstream.records import new_connection

#: What OpenSSL says of a peer that went away: it may be back.
_END_OF_FILE = "unexpected eof"

#: What OpenSSL's verify callback reports, in words (X509_V_ERR_*).
_CHAIN_ERRORS = {
    9: "the certificate is not yet valid",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate chain ends in an unknown self-signed CA",
    20: "the certificate is from an unknown CA",
    21: "the certificate's signer was not sent and is not known",
    23: "the certificate was revoked",
    24: "the certificate's signer is not a CA",
    26: "the certificate is not meant for TLS servers",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """
    What is known of a verified peer.

    ``verified`` is the name or address its certificate was verified for, ``not_after`` when that ends.
    """

    verified: str
    tls_version: str
    cipher: str
    resumed: bool
    pins: tuple[bytes, ...]
    not_after: datetime | None = None


@dataclass(frozen=True)
class TlsChoices:
    """
    What is left to choose of TLS: the oldest version spoken (``1.2`` or ``1.3``), the ciphers of TLS 1.2 as OpenSSL
    spells a list of them ("" for its own), and the certificate (a chain, PEM) and key (PEM) to show to upstreams.
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
        if self.minimum == "1.3":
            context.set_min_proto_version(SSL.TLS1_3_VERSION)
        if self.ciphers:
            context.set_cipher_list(self.ciphers.encode())
        return options


class Credentials:
    """
    What all connections of a proxy are authenticated with: ``ca``, PEM with the roots to trust, None for the
    system's, and ``tls``.

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
        return self.tls.options(platformTrust() if self.ca is None else _roots(self.ca))


class Trust:
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
        self._session: SSL.Session | None = None
        self._session_pins: tuple[bytes, ...] = ()

    def handshake(self) -> Handshake:
        """
        Return what is needed for one connection attempt.

        :raises Exception: whatever stands in the way of using TLS at all, as a system that forbids it.
        """
        if self._options is None or not self.is_current(self._options):
            # What the old CAs vouched for must not be resumed under the new ones.
            self._options = self._session = None
            self._session_pins = ()
            # Made now, since what goes wrong later is told to nobody.
            self._options = self._credentials.options()
            self._generation = self._credentials.generation
        return Handshake(self, self._options)

    def is_current(self, options: CertificateOptions) -> bool:
        """
        Whether a connection with these options has the present context.
        """
        return options is self._options and self._generation == self._credentials.generation

    def connection(self, options: CertificateOptions) -> SSL.Connection:
        """
        Return a new connection in this upstream's own context: TLS ≥ 1.2, ALPN ``dot``, SNI if there is
        a name, and the last session to resume.
        """
        connection = new_connection(options.getContext())
        connection.set_alpn_protos([b"dot"])
        if self.name:
            connection.set_tlsext_host_name(self.name.encode("ascii"))
        if self._session is not None:
            connection.set_session(self._session)
        return connection

    def remember(self, session: SSL.Session | None, pins: tuple[bytes, ...]) -> None:
        """
        Keep a verified connection's session, with the pins its chain held.
        """
        if session is not None:
            self._session, self._session_pins = session, pins

    def verify(self, connection: SSL.Connection, *, resumed: bool) -> Identity:
        """
        Return who the peer is.

        :raises Untrusted: if that is not who it must be.
        """
        certificate = connection.get_peer_certificate()
        if certificate is None:
            raise Untrusted("verify", "no certificate was sent")
        x509 = certificate.to_cryptography()
        self._check_dates(x509)
        self._check_name(connection, x509)
        pins = self._session_pins if resumed else _pins_of(connection, certificate)
        if not accepts(self.pins, pins):
            raise Untrusted(
                "verify", f"none of the pins matches; the key's pin is {show_pin(pins[0]) if pins else 'unknown'}"
            )
        return Identity(
            self.name or self.address,
            connection.get_protocol_version_name(),
            connection.get_cipher_name() or "",
            resumed,
            pins,
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

    def _check_name(self, connection: SSL.Connection, x509: X509Certificate) -> None:
        try:
            if self.name:
                verify_hostname(connection, self.name)
            else:
                verify_ip_address(connection, self.address.partition("%")[0])
        except VerificationError:
            wanted = self.name or self.address
            raise Untrusted("verify", f"the certificate is for {_names_of(x509)}, not for {wanted}") from None
        except Exception as error:
            # service-identity raises CertificateError or ValueError for what it cannot read; there is no
            # certificate for which an exception is good news.
            raise Untrusted("verify", f"the certificate's names cannot be used: {error}") from None


@implementer(IOpenSSLClientConnectionCreator)
class Handshake:
    """
    One attempt at a TLS connection, from its first octet to the verdict.

    Owned by the gate.  Ends with ``verify`` or with ``explain``.
    """

    def __init__(self, trust: Trust, options: CertificateOptions) -> None:
        self._trust = trust
        self._options = options
        self._connection: SSL.Connection | None = None
        self._chain_error = ""
        self._resumed = True  # until OpenSSL asks us about a chain, which it does in every full handshake
        self.identity: Identity | None = None

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        Called by Twisted when TCP stands.
        """
        connection = self._trust.connection(self._options)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._chain_judged)
        self._connection = connection
        return connection

    def verify(self) -> Identity:
        """
        Return who the peer of the finished handshake is.

        :raises Untrusted: if it is not who it must be.
        """
        if self._connection is None or self._chain_error:
            raise Untrusted("verify", self._chain_error or "no handshake took place")
        if not self._trust.is_current(self._options):
            raise Untrusted("verify", "the CAs or the client certificate were replaced during the handshake")
        self.identity = self._trust.verify(self._connection, resumed=self._resumed)
        return self.identity

    def remember_session(self) -> None:
        """
        Keep the session for the next connection; to be called once application data came, since only
        then have TLS 1.3's tickets.
        """
        if self._connection is not None and self.identity is not None and self._trust.is_current(self._options):
            self._trust.remember(self._connection.get_session(), self.identity.pins)

    def explain(self, failure: Failure) -> UpstreamError:
        """
        Return why the connection ended before it was verified.
        """
        if self._chain_error:
            return Untrusted("verify", self._chain_error)
        if failure.check(SSL.Error):
            reason = _openssl_reason(failure.value)
            kind = Unreachable if _END_OF_FILE in reason else Incompatible
            return kind("tls", f"the handshake failed: {reason}")
        return Unreachable("tls", f"{closed_how(failure)} during the handshake")

    def _chain_judged(self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
        self._resumed = False
        if not ok and not self._chain_error:
            self._chain_error = _CHAIN_ERRORS.get(error, f"the certificate chain is not valid (X509 error {error})")
            if depth:
                self._chain_error += f" (certificate {depth} of the chain)"
        return bool(ok)


def _roots(pem: bytes) -> Any:
    roots = load_pem_x509_certificates(pem)
    return trustRootFromCertificates([Certificate(X509.from_cryptography(root)) for root in roots])


def closed_how(failure: Failure) -> str:
    """
    Return in words how a connection ended.
    """
    if failure.check(ConnectionDone):
        return "the upstream closed the connection"
    if failure.check(SSL.Error):
        return f"TLS failed: {_openssl_reason(failure.value)}"
    if failure.check(ConnectionAborted):
        return "the connection was given up"
    if failure.check(ConnectionLost):
        return "the connection broke"
    return f"the connection broke ({failure.getErrorMessage()})"


def lost(failure: Failure) -> ConnectionGone:
    """
    Return the error for a verified connection that ended.
    """
    error = ConnectionGone("read", closed_how(failure))
    if failure.check(ConnectionDone):
        error.code = ConnectionEnd.PEER_CLOSED
    elif failure.check(SSL.Error):
        error.code = ConnectionEnd.TLS_ERROR
    elif failure.check(ConnectionAborted):
        error.code = ConnectionEnd.ABORTED
    return error


def _openssl_reason(error: object) -> str:
    try:
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "connection closed"  # type: ignore[attr-defined]
    except (AttributeError, IndexError, TypeError):
        return str(error) or type(error).__name__


def _pins_of(connection: SSL.Connection, leaf: X509) -> tuple[bytes, ...]:
    """
    The pins of the verified chain, the leaf's first.
    """
    chain = connection.get_verified_chain() or [leaf]
    return tuple(
        pin_of(certificate.to_cryptography().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        for certificate in chain
    )


def _names_of(x509: X509Certificate) -> str:
    try:
        names = x509.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return "no name"
    found = [*names.get_values_for_type(DNSName), *map(str, names.get_values_for_type(IPAddress))]
    # Whoever made the certificate may have wanted to write lines into a log.
    shown = [name if name.isascii() and name.isprintable() else ascii(name) for name in found]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(shown[:4]) + more if shown else "no host name"
