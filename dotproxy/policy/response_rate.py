"""
How many alike responses a client network gets over UDP (response rate limiting).

Decides for clients whose addresses may be forged, since a flood of responses hits whoever has the address: those
outside the networks named as safe.  Alike are responses to the same question, and errors below the same name.  What is
over the limit is dropped, but for one in so many, which is sent truncated and empty: a real client asks again over TCP.

Counts in a table of fixed size; two kinds of responses may share a place, which limits them a little sooner.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from dotproxy.policy.client import ClientMessage
from dotproxy.wire.message import HEADER_SIZE, NOERROR, TC, question_of

#: Places in the table; a power of two.
_PLACES: Final = 1 << 16

#: Networks of addresses that are remembered.
_REMEMBERED: Final = 8192

_NETWORK_V4: Final = 24
_NETWORK_V6: Final = 56


class ResponseRateLimit:
    """
    ``rate`` alike responses a second; one in ``slip`` of the others is sent truncated, none if that is 0.

    ``is_safe`` says of an address whether it need not be limited; ``shed`` is called for each response that is
    dropped or truncated.
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
            self._counts = array("I", bytes(4 * _PLACES))
        sent: list[ClientMessage] = []
        for octets, client in responses:
            if self._is_safe(client.host):
                sent.append((octets, client))
                continue
            place = hash((self._network(client.host), _kind_of(octets))) % _PLACES
            self._counts[place] += 1
            over = self._counts[place] - self._rate
            if over <= 0:
                sent.append((octets, client))
                continue
            self._shed()
            if self._slip and over % self._slip == 0:
                sent.append((_empty(octets), client))
        return sent

    def _network(self, host: str) -> int:
        network = self._networks.get(host)
        if network is None:
            if len(self._networks) >= _REMEMBERED:
                self._networks.clear()
            address = ip_address(host)
            is_v4 = address.version == 4
            bits = 32 - _NETWORK_V4 if is_v4 else 128 - _NETWORK_V6
            network = self._networks[host] = int(address) >> bits << 1 | is_v4
        return network


def _kind_of(octets: bytes) -> bytes:
    """
    Return what responses that are alike have in common.
    """
    rcode = octets[3] & 15
    end = question_of(octets)
    if not end:
        return octets[3:4]
    name = octets[HEADER_SIZE : end - 4].lower()
    if rcode == NOERROR and (octets[6] or octets[7] or octets[2] & TC >> 8):
        return name + octets[end - 4 : end]
    # Names that do not exist are made up by the thousand: what they have in common is what they are below.
    return bytes((rcode,)) + name[1 + name[0] :] if name[0] else bytes((rcode,))


def _empty(octets: bytes) -> bytes:
    """
    Return a response with TC set and nothing but its question.
    """
    end = question_of(octets) or HEADER_SIZE
    flags = bytes((octets[2] | TC >> 8, octets[3] & 0xF0))
    return octets[:2] + flags + (b"\0\1" if end > HEADER_SIZE else b"\0\0") + bytes(6) + octets[HEADER_SIZE:end]
