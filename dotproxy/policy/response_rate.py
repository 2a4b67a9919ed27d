"""
Response rate limiting (RRL) over UDP: identical responses to one client network.

Decides for clients outside the safe networks, whose addresses may be forged: a flood of responses hits the owner of the
address.  Responses to the same question are identical, and so are errors below the same name.  Responses over the limit
are dropped, but for one in ``slip``, which is sent truncated and empty: a real client retries over TCP.

Counts in a hash table of fixed size; categories that share a bucket are limited a little sooner.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from dotproxy.policy.client import ClientMessage
from dotproxy.wire.message import HEADER_SIZE, NOERROR, TC, question_of

#: Buckets of the table; a power of two.
_BUCKETS: Final = 1 << 16

#: Addresses whose network is cached.
_MAX_NETWORKS: Final = 8192

_PREFIX_V4: Final = 24
_PREFIX_V6: Final = 56


class ResponseRateLimit:
    """
    Allow ``rate`` identical responses a second; of the others one in ``slip`` is sent truncated, none if that is 0.

    ``is_safe`` says whether an address is exempt; ``shed`` is called for each response that is dropped or truncated.
    """

    def __init__(self, rate: int, slip: int, is_safe: Callable[[str], bool], shed: Callable[[], None]) -> None:
        self._rate = rate
        self._slip = slip
        self._is_safe = is_safe
        self._shed = shed
        self._second = -1
        self._counts = array("I")
        self._networks: dict[str, int] = {}

    def apply(self, responses: list[ClientMessage], now: float) -> list[ClientMessage]:
        """
        Return those of the responses that may be sent; some of them are replaced by truncated, empty ones.
        """
        if int(now) != self._second:
            self._second = int(now)
            self._counts = array("I", bytes(4 * _BUCKETS))
        sent: list[ClientMessage] = []
        for octets, client in responses:
            if self._is_safe(client.host):
                sent.append((octets, client))
                continue
            place = hash((self._network(client.host), _category_of(octets))) % _BUCKETS
            self._counts[place] += 1
            over = self._counts[place] - self._rate
            if over <= 0:
                sent.append((octets, client))
                continue
            self._shed()
            if self._slip and over % self._slip == 0:
                sent.append((_truncated_empty(octets), client))
        return sent

    def _network(self, host: str) -> int:
        network = self._networks.get(host)
        if network is None:
            if len(self._networks) >= _MAX_NETWORKS:
                self._networks.clear()
            address = ip_address(host)
            is_v4 = address.version == 4
            bits = 32 - _PREFIX_V4 if is_v4 else 128 - _PREFIX_V6
            network = self._networks[host] = int(address) >> bits << 1 | is_v4
        return network


def _category_of(octets: bytes) -> bytes:
    """
    Return what identical responses have in common.
    """
    rcode = octets[3] & 15
    end = question_of(octets)
    if not end:
        return octets[3:4]
    name = octets[HEADER_SIZE : end - 4].lower()
    if rcode == NOERROR and (octets[6] or octets[7] or octets[2] & TC >> 8):
        return name + octets[end - 4 : end]
    # Random subdomains have their parent in common.
    return bytes((rcode,)) + name[1 + name[0] :] if name[0] else bytes((rcode,))


def _truncated_empty(octets: bytes) -> bytes:
    """
    Return a response with TC set and nothing but its question.
    """
    end = question_of(octets) or HEADER_SIZE
    flags = bytes((octets[2] | TC >> 8, octets[3] & 0xF0))
    return octets[:2] + flags + (b"\0\1" if end > HEADER_SIZE else b"\0\0") + bytes(6) + octets[HEADER_SIZE:end]
