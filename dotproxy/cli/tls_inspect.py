"""
What a server presents in a TLS handshake: protocol version, cipher, certificate, without verification.

Decides nothing about trust: the result is shown to a person, and no query is sent over such a connection.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dotproxy.policy.pins import pin_of, show_pin
from dotproxy.wire.printable import short_printable

#: Names of a certificate that are shown at most.
_SHOWN_NAMES = 20


@dataclass(frozen=True)
class TlsDetails:
    """
    What was found out.  Times are in milliseconds; ``pin`` is an SPKI pin as a SPEC takes it; ``error`` is "" if all
    went well.
    """

    tcp_ms: float | None = None
    tls_ms: float | None = None
    tls_version: str = ""
    cipher: str = ""
    alpn: str = ""
    names: tuple[str, ...] = ()
    issuer: str = ""
    expires: datetime | None = None
    pin: str = ""
    error: str = ""


def inspect(host: str, port: int, name: str | None, timeout: float) -> TlsDetails:
    """
    Connect, do a TLS handshake, and return what the server presents; ``timeout`` in seconds, for each step.
    """
    began = time.perf_counter()
    try:
        plain = socket.create_connection((host, port), timeout)
    except OSError as error:
        return TlsDetails(error=f"connect: {(error.strerror or str(error)).lower()}")
    tcp = _since(began)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")  # offer even what is obsolete
    context.set_alpn_protocols(["dot"])
    began = time.perf_counter()
    with plain:
        try:
            with context.wrap_socket(plain, server_hostname=name) as tls:
                took = _since(began)
                return _described(tls, tcp, took)
        except ssl.SSLError as error:
            return TlsDetails(tcp_ms=tcp, error=f"tls: {(error.reason or str(error)).lower().replace('_', ' ')}")
        except OSError as error:
            return TlsDetails(tcp_ms=tcp, error=f"tls: {(error.strerror or str(error)).lower()}")


def _described(tls: ssl.SSLSocket, tcp: float, took: float) -> TlsDetails:
    cipher_name, *_ = tls.cipher() or ("",)
    octets = tls.getpeercert(binary_form=True)
    details = TlsDetails(tcp, took, tls.version() or "", cipher_name)
    if octets is None:
        return replace(details, error="tls: no certificate was sent")
    try:
        details = replace(details, alpn=tls.selected_alpn_protocol() or "")
        certificate = x509.load_der_x509_certificate(octets)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        issuer = certificate.issuer.rfc4514_string()
        return replace(
            details,
            names=_names(certificate),
            issuer=short_printable(issuer),
            expires=certificate.not_valid_after_utc,
            pin=show_pin(pin_of(key)),
        )
    except Exception as error:  # parsers raise all kinds of exceptions for malformed certificates
        return replace(details, error=short_printable(f"tls: the certificate cannot be read: {error}"))


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.UnsupportedGeneralNameType, ValueError):
        return ()
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    shown = tuple(map(short_printable, found[:_SHOWN_NAMES]))
    return shown if len(found) <= _SHOWN_NAMES else (*shown, f"{len(found) - _SHOWN_NAMES} more")


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)
