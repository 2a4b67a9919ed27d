"""
The UDP listener: datagrams in, datagrams out, in batches.

Decides nothing; cookies are ``policy``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.names.dns import DNSDatagramProtocol

from dotproxy.downstream.udp_port import Datagram
from dotproxy.errors import ShedReason
from dotproxy.policy.client import Client
from dotproxy.telemetry.counters import UDP
from dotproxy.wire.message import QueryInfo

#: From a query, what was seen of it and the client's address to a COOKIE option, or none.
CookieFor = Callable[[bytes, QueryInfo, str], bytes]

#: From responses, each with its client, to those that may be sent.
LimitResponses = Callable[[list[Datagram]], list[Datagram]]


class UdpListener(DNSDatagramProtocol):
    """
    A twisted.names datagram protocol that passes octets to its factory undecoded.

    Belongs on a ``UdpPort``.  ``limit_responses``, if there is one, is asked which responses may be sent.
    """

    kind = UDP
    is_stream = False
    takes_transfers = False
    noisy = False
    transport: Any

    def __init__(self, factory: Any, clock: Any, cookie_for: CookieFor | None = None) -> None:
        super().__init__(factory, clock)
        self._handle_batch = factory.handle_batch
        self._cookie_for = cookie_for
        self.limit_responses: LimitResponses | None = None

    @property
    def queue_delay(self) -> float:
        """
        How many seconds what was read last had waited to be read, as ``UdpPort.queue_delay``.
        """
        return float(getattr(self.transport, "queue_delay", 0.0))

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Return a cookie for a client that sent one, if cookies are on.
        """
        return self._cookie_for(query, info, client.host) if self._cookie_for else b""

    def datagrams_received(self, batch: list[Datagram]) -> None:
        """
        Called by the port.
        """
        self._handle_batch(self, batch)

    def datagrams_dropped(self, count: int) -> None:
        """
        Called by the port.
        """
        self.controller.counters.shed[ShedReason.TOO_OLD] += count

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        """
        Called by any other port there may be.
        """
        self._handle_batch(self, [(data, Client(addr[0], addr[1]))])

    def send_answers(self, answers: list[Datagram]) -> None:
        """
        Send each answer to its client, if it may have it.
        """
        if self.limit_responses is not None:
            answers = self.limit_responses(answers)
        if self.transport is not None:
            self.transport.write_batch(answers)
