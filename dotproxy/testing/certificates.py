"""
A throw-away CA, and certificates of every shape, good and bad.

Decides nothing about trust; makes what trust is tested with.  Keys are P-256 and live in memory unless
they are written out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from twisted.internet.ssl import CertificateOptions

from dotproxy.policy.pins import pin_of

_SAN = ObjectIdentifier("2.5.29.17")


@dataclass(frozen=True, slots=True)
class Issued:
    """
    A certificate with its key, and the PEM of both.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """
        The certificate alone.
        """
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """
        The private key alone.
        """
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def pin(self) -> bytes:
        """
        The SPKI pin of its key, 32 octets.
        """
        return pin_of(self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def server_options(self) -> CertificateOptions:
        """
        What a Twisted TLS server needs to be a DoT server with this certificate.
        """
        # A Twisted server without protocols of its own ends a handshake that offers any.
        return CertificateOptions(
            privateKey=cast(Any, self.key),  # pyOpenSSL takes cryptography's objects, and deprecates its own
            certificate=cast(Any, self.certificate),
            acceptableProtocols=[b"dot"],
            enableSessionTickets=True,
        )

    def write(self, folder: Path, stem: str) -> tuple[Path, Path]:
        """
        Write ``stem.pem`` and ``stem.key`` (mode 0600) into ``folder``; return their paths.
        """
        certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
        certificate.write_bytes(self.certificate_pem)
        with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(self.key_pem)
        return certificate, key


class Authority:
    """
    A CA that issues whatever it is asked to.

    ``now`` is the time its certificates are dated by, ``ends`` when its own does, counted from that.  With a ``parent``
    it is an intermediate CA, signed by that one, and ``root`` its own certificate all the same.
    """

    def __init__(
        self,
        common_name: str = "dotproxy throw-away CA",
        now: datetime | None = None,
        *,
        parent: Authority | None = None,
        ends: timedelta = timedelta(days=3650),
    ) -> None:
        self._now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name)
        issuer, signer = (parent.root.certificate.subject, parent.root.key) if parent else (name, key)
        builder = _builder(name, issuer, key, self._now - timedelta(days=1), self._now + ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(is_ca=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        self.root: Issued = Issued(builder.sign(signer, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        """
        The CA's certificate: what is to be trusted.
        """
        return self.root.certificate_pem

    def issue(
        self,
        names: Sequence[str] = (),
        *,
        common_name: str = "dotproxy test server",
        starts: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=30),
        san: bytes | None = None,
        self_signed: bool = False,
        is_client: bool = False,
    ) -> Issued:
        """
        Return a certificate for ``names``, host names and IP addresses, in subjectAltName.

        Without names there is no subjectAltName at all, unless ``san`` gives its DER, well formed or not.
        ``starts`` and ``ends`` bound its validity, counted from now.  ``is_client``: it is a TLS client's.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(common_name)
        issuer, signer = (subject, key) if self_signed else (self.root.certificate.subject, self.root.key)
        builder = _builder(subject, issuer, key, self._now + starts, self._now + ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(is_ca=False), critical=True)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if is_client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if not self_signed:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
            builder = builder.add_extension(identifier, critical=False)
        if san is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(_SAN, san), critical=False)
        elif names:
            general = [_general_name(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        return Issued(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, starts: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
