"""
The UDP listener: batches of datagrams between a port and the receiver of queries.

Decides nothing.  DNS cookies and response rates are decided in ``policy``.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.names.dns import DNSDatagramProtocol

from dotproxy.downstream.interfaces import CountingReceiver
from dotproxy.downstream.udp_port import Datagram, UdpPort
from dotproxy.errors import ShedReason
from dotproxy.policy.client import Client
from dotproxy.telemetry.counters import UDP
from dotproxy.wire.message import QueryInfo

#: Returns the COOKIE option, in wire form, for a query, its ``QueryInfo`` and the client's IP address; b"" for none.
CookieFor = Callable[[bytes, QueryInfo, str], bytes]

#: Returns those of some responses, each with its client, that may be sent.
LimitResponses = Callable[[list[Datagram]], list[Datagram]]


class UdpListener(DNSDatagramProtocol):
    """
    A twisted.names datagram protocol that passes octets to its factory undecoded.

    Its transport is a ``UdpPort``.  ``limit_responses`` selects the responses that are sent; None sends all.
    """

    kind = UDP
    is_stream = False
    takes_transfers = False
    noisy = False
    transport: UdpPort | None  # type: ignore[assignment]  # Twisted has IUDPTransport, without batches

    def __init__(
        self, factory: CountingReceiver, clock: IReactorTime | None, cookie_for: CookieFor | None = None
    ) -> None:
        super().__init__(factory, clock)
        self._receiver = factory
        self._handle_batch = factory.handle_batch
        self._cookie_for = cookie_for
        self.limit_responses: LimitResponses | None = None

    @property
    def queue_delay(self) -> float:
        """
        The time that the datagrams read last had waited, in seconds; 0.0 on a port that does not tell.
        """
        return float(getattr(self.transport, "queue_delay", 0.0))

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Return a COOKIE option for a client that sent one, if cookies are on (RFC 7873).
        """
        return self._cookie_for(query, info, client.host) if self._cookie_for else b""

    def datagrams_received(self, batch: list[Datagram]) -> None:
        """
        Hand queries to the receiver; called by the port.
        """
        self._handle_batch(self, batch)

    def datagrams_dropped(self, count: int) -> None:
        """
        Count queries that the port dropped because they had waited too long.
        """
        self._receiver.counters.shed[ShedReason.TOO_OLD] += count

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        """
        Hand one query to the receiver; called by ports that do not read batches.
        """
        host, port, *_ = addr
        self._handle_batch(self, [(data, Client(host, port))])

    def send_answers(self, answers: list[Datagram]) -> None:
        """
        Send responses, but for those that ``limit_responses`` leaves out.
        """
        if self.limit_responses is not None:
            answers = self.limit_responses(answers)
        if self.transport is not None:
            self.transport.write_batch(answers)
