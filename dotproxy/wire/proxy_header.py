"""
The header of the PROXY protocol, version 2: the address of a client, told by the balancer in front of it.

Decides what is a whole header, what is the beginning of one, and what is none (haproxy's proxy-protocol.txt, section
2.2).  Version 1, which is text, is not understood.  Who may send a header is not decided here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from dotproxy.errors import WireError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

#: The fixed part: signature, version and command, family and transport, and the length of what follows.
FIXED_SIZE = 16

#: The longest header that is taken, in octets: addresses and TLVs fit, and it is never more than a packet.
MAX_SIZE = 536

_LENGTH = Struct("!H")
_IPV4, _IPV6 = Struct("!4s4sH"), Struct("!16s16sH")

_VERSION_LOCAL, _VERSION_PROXY = 0x20, 0x21
_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)
_TRANSPORTS = 3  # unspecified, stream, datagram


class ProxyHeader(NamedTuple):
    """
    ``size`` is how many octets it takes; ``host`` and ``port`` are the client's, "" and 0 if it is the balancer itself,
    or has no IP address.
    """

    size: int
    host: str
    port: int


def parse_proxy_header(octets: bytes) -> ProxyHeader | None:
    """
    Return the header that ``octets`` begin with, None if they are the beginning of one that may yet come.

    :raises WireError: if they cannot begin with one.
    """
    if not octets.startswith(SIGNATURE[: len(octets)]):
        raise WireError("no PROXY header")
    if len(octets) < FIXED_SIZE:
        return None
    version, family = octets[12], octets[13]
    length: int = _LENGTH.unpack_from(octets, 14)[0]
    size = FIXED_SIZE + length
    if size > MAX_SIZE:
        raise WireError("a PROXY header that is too long")
    if version not in (_VERSION_LOCAL, _VERSION_PROXY):
        raise WireError("a PROXY header of another version, or with an unknown command")
    if family >> 4 > _UNIX or family & 15 >= _TRANSPORTS:
        raise WireError("a PROXY header with an unknown family or transport")
    if len(octets) < size:
        return None
    if version == _VERSION_LOCAL:
        return ProxyHeader(size, "", 0)
    return _with_client(octets, family >> 4, size)


def _with_client(octets: bytes, family: int, size: int) -> ProxyHeader:
    if family == _INET:
        source, port = _address(octets, _IPV4, size)
        return ProxyHeader(size, str(IPv4Address(source)), port)
    if family == _INET6:
        source, port = _address(octets, _IPV6, size)
        address = IPv6Address(source)
        return ProxyHeader(size, str(address.ipv4_mapped or address), port)
    return ProxyHeader(size, "", 0)


def _address(octets: bytes, layout: Struct, size: int) -> tuple[bytes, int]:
    """
    The source's address and port; the destination's and what follows are passed over.
    """
    if size < FIXED_SIZE + layout.size + 2:
        raise WireError("a PROXY header without room for its addresses")
    source, _, port = layout.unpack_from(octets, FIXED_SIZE)
    return source, port
