"""
Which addresses are one client.

Decides by the address alone: an IPv4 address, or an IPv6 network of the size that one customer is given.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

BITS_V4: Final = 32
_BITS_V6: Final = 128


def prefix_of(host: str, bits_v4: int, bits_v6: int) -> str:
    """
    Return what stands for the client with this address, of which so many bits are one client.
    """
    address = address_of(host)
    if address is None:
        return host
    if isinstance(address, IPv4Address):
        if bits_v4 == BITS_V4:
            return str(address)
        return f"{int(address) >> (BITS_V4 - bits_v4):x}/{bits_v4}"
    # All of a link have the same prefix; there the whole address tells them apart (RFC 4291 §2.5.6).
    if address.is_link_local:
        return str(address)
    return f"{int(address) >> (_BITS_V6 - bits_v6):x}::/{bits_v6}"


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """
    Return an address as sockets spell it, without its scope, and an IPv4 address that is mapped to IPv6 as such; None
    if it is none.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
