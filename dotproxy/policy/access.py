"""
Which clients are served, and what the others get.

Decides by the client's address alone, before its query is parsed.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

#: Addresses whose verdict is cached: enough for a large site, few enough that spoofed addresses cost nothing.
_REMEMBERED = 8192


class LimitAction(StrEnum):
    """
    What a client gets instead of a response: TC=1 over UDP, so that it retries over TCP; REFUSED; or nothing.
    """

    TRUNCATE = "truncate"
    REFUSE = "refuse"
    DROP = "drop"


class AccessList:
    """
    The networks whose clients are served.
    """

    def __init__(self, allowed: Iterable[Network]) -> None:
        self._allowed = tuple(allowed)
        self._verdicts: dict[str, bool] = {}

    def allows(self, host: str) -> bool:
        """
        Return whether ``host``, an IP address as sockets spell it, is served; ``""`` is this process itself.
        """
        try:
            return self._verdicts[host]
        except KeyError:
            pass
        if len(self._verdicts) >= _REMEMBERED:
            self._verdicts.clear()
        verdict = self._verdicts[host] = self._judge(host)
        return verdict

    def _judge(self, host: str) -> bool:
        if not host:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or IPv6Address(int(address))
        return any(address in network for network in self._allowed)
