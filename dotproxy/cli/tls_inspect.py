"""
What a server shows of itself before anybody asks it anything: TCP, TLS, its certificate, believed or not.

Decides nothing about trust: what is seen here is shown to a person, and no question ever goes over such a connection.
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

#: Of a certificate's names so many are shown.
_SHOWN_NAMES = 20


@dataclass(frozen=True)
class Seen:
    """
    Times are in milliseconds; ``pin`` is a SPKI pin as a SPEC takes it.
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


def look(host: str, port: int, name: str | None, timeout: float) -> Seen:
    """
    Connect, shake hands, look, and go.
    """
    began = time.perf_counter()
    try:
        plain = socket.create_connection((host, port), timeout)
    except OSError as error:
        return Seen(error=f"connect: {(error.strerror or str(error)).lower()}")
    tcp = _since(began)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")  # to see what there is, however old
    context.set_alpn_protocols(["dot"])
    began = time.perf_counter()
    with plain:
        try:
            with context.wrap_socket(plain, server_hostname=name) as tls:
                took = _since(began)
                return _described(tls, tcp, took)
        except ssl.SSLError as error:
            return Seen(tcp_ms=tcp, error=f"tls: {(error.reason or str(error)).lower().replace('_', ' ')}")
        except OSError as error:
            return Seen(tcp_ms=tcp, error=f"tls: {(error.strerror or str(error)).lower()}")


def _described(tls: ssl.SSLSocket, tcp: float, took: float) -> Seen:
    cipher = tls.cipher()
    octets = tls.getpeercert(binary_form=True)
    seen = Seen(tcp, took, tls.version() or "", cipher[0] if cipher else "")
    if octets is None:
        return replace(seen, error="tls: no certificate was sent")
    try:
        seen = replace(seen, alpn=tls.selected_alpn_protocol() or "")
        certificate = x509.load_der_x509_certificate(octets)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        issuer = certificate.issuer.rfc4514_string()
        return replace(
            seen,
            names=_names(certificate),
            issuer=short_printable(issuer),
            expires=certificate.not_valid_after_utc,
            pin=show_pin(pin_of(key)),
        )
    except Exception as error:  # a stranger's certificate: each parser fails in its own way
        return replace(seen, error=short_printable(f"tls: the certificate cannot be read: {error}"))


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
