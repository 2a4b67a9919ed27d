"""
The prefix that identifies a client.

Decides by the address alone: an IPv4 address, or an IPv6 network of the size that one customer is assigned.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

BITS_V4: Final = 32
_BITS_V6: Final = 128


def prefix_of(host: str, bits_v4: int, bits_v6: int) -> str:
    """
    Return the prefix of the address ``host``, of ``bits_v4`` or ``bits_v6`` bits.
    """
    address = address_of(host)
    if address is None:
        return host
    if isinstance(address, IPv4Address):
        if bits_v4 == BITS_V4:
            return str(address)
        return f"{int(address) >> (BITS_V4 - bits_v4):x}/{bits_v4}"
    # All hosts of a link have the same prefix, so the whole address counts (RFC 4291 §2.5.6).
    if address.is_link_local:
        return str(address)
    return f"{int(address) >> (_BITS_V6 - bits_v6):x}::/{bits_v6}"


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """
    Return an address as sockets spell it, without its scope; an IPv4-mapped IPv6 address as IPv4; None if invalid.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
