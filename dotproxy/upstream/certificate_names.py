"""
Whether a certificate is for a host name or an IP address.

Decides what a name in subjectAltName matches, by RFC 9525 §6: the whole name, letter for letter but for their case; or
``*`` in place of the first label; or the very address.  Names of any other form (a space, a final dot, a wildcard
elsewhere, an address as text) match nothing, and make nothing else beside them unusable.  The subject's common name is
never looked at (RFC 8310 §8.1).  A match counts only if service-identity, given that name alone, agrees.

Knows nothing of connections, chains and dates.  Nothing is accepted that ``openssl verify -verify_hostname`` or
``-verify_ip`` refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography.x509 import Certificate, DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName
from service_identity.hazmat import DNS_ID, DNSPattern, IPAddress_ID, IPAddressPattern, verify_service_identity

from dotproxy.errors import Untrusted

#: More names than a certificate of any public CA has; those beyond would cost time at each handshake.
MAX_NAMES = 2000

#: How many of them an error names, and how much of each: they are a stranger's, and go into logs and to clients.
_SHOWN, _LENGTH = 4, 80

_LABEL = "[a-z0-9_-]{1,63}"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
_LDH = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#: A name of which the first label may be replaced by ``*``: three labels at least, without underscores.
_BENEATH_TWO_LABELS = re.compile(rf"[a-z0-9-]+\.{_LDH}(?:\.{_LDH})+\Z")


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """
    What a certificate's subjectAltName holds of host names (as they are written there) and of IP addresses.
    """

    hosts: tuple[str, ...]
    addresses: tuple[IPv4Address | IPv6Address, ...]

    def __str__(self) -> str:
        found = [*map(_shown, self.hosts[: _SHOWN + 1]), *map(str, self.addresses[: _SHOWN + 1])][:_SHOWN]
        more = len(self.hosts) + len(self.addresses) - len(found)
        return (", ".join(found) + (f" and {more} more" if more else "")) if found else "no host name"


def check_names(certificate: Certificate, name: str | None, address: str) -> None:
    """
    Check that a certificate is for ``name``, an A-label host name without final dot, or if that is None, for the IP
    address ``address``, which may have a zone.

    :raises Untrusted: if it is for others, for none, or its names cannot be read.
    """
    try:
        names = names_in(certificate)
        is_right = _has_host(names, name) if name else _has_address(names, ip_address(address.partition("%")[0]))
    except Untrusted:
        raise
    except Exception as error:
        # cryptography and service-identity raise various things; none of them is good news.
        raise Untrusted("verify", f"the certificate's names cannot be used: {printable(str(error))}") from None
    if not is_right:
        raise Untrusted("verify", f"the certificate is for {names}, not for {name or address}")


def names_in(certificate: Certificate) -> CertificateNames:
    """
    Return the names in a certificate.

    :raises Untrusted: if there are none, or too many.
    :raises Exception: whatever cryptography says of an extension that is malformed.
    """
    try:
        san = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        raise Untrusted(
            "verify",
            "the certificate's names cannot be used: it has no subjectAltName, and a common name does not count",
        ) from None
    if len(list(san)) > MAX_NAMES:
        raise Untrusted("verify", f"the certificate's names cannot be used: there are more than {MAX_NAMES}")
    addresses = san.get_values_for_type(IPAddress)
    return CertificateNames(
        tuple(san.get_values_for_type(DNSName)),
        # cryptography makes networks of entries that are twice as long as an address: those are for CAs' constraints.
        tuple(one for one in addresses if isinstance(one, IPv4Address | IPv6Address)),
    )


def _has_host(names: CertificateNames, wanted: str) -> bool:
    wanted = wanted.lower()
    if not wanted.isascii() or not _HOST_NAME.match(wanted):
        return False
    accepted = {wanted}
    if _BENEATH_TWO_LABELS.match(wanted) and not wanted.startswith("xn--"):
        accepted.add("*." + wanted.partition(".")[2])
    for host in names.hosts:
        # str.lower() makes ASCII of some letters that are none.
        if host.isascii() and host.lower() in accepted:
            verify_service_identity([DNSPattern.from_bytes(host.encode())], [DNS_ID(wanted)], [])
            return True
    return False


def _has_address(names: CertificateNames, wanted: IPv4Address | IPv6Address) -> bool:
    for address in names.addresses:
        if address == wanted:
            verify_service_identity([IPAddressPattern(address)], [IPAddress_ID(str(wanted))], [])
            return True
    return False


def printable(text: str) -> str:
    """
    Return a text of a certificate as it may go to a log or a terminal: no line breaks, nothing but ASCII, not long.
    """
    text = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= _LENGTH else text[:_LENGTH] + "..."


def _shown(name: str) -> str:
    # A space at an end must be seen.
    shown = printable(name)
    return shown if shown and shown == name and " " not in name else f"'{shown}'"
