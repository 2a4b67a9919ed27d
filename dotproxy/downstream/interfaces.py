"""
Interfaces inside the listeners' room: the receiver of queries, a client's connection, and its transport.

Decides nothing.  ``forwarding.interfaces`` has what the forwarder needs of a listener.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address

from dotproxy.errors import ClientEnd
from dotproxy.forwarding.interfaces import Listener
from dotproxy.policy.client import ClientMessage
from dotproxy.policy.client_shares import ClientShare
from dotproxy.telemetry.counters import Counters


class QueryReceiver(Protocol):
    """
    The receiver of queries; in the service it is the forwarder.
    """

    def handle_batch(self, listener: Listener, batch: Sequence[ClientMessage]) -> int:
        """
        Take queries; return how many of them get no response.
        """


class CountingReceiver(QueryReceiver, Protocol):
    """
    A receiver that also has the counters for queries that listeners drop.
    """

    @property
    def counters(self) -> Counters:
        """
        The counters of the proxy.
        """


class ClientConnection(Protocol):
    """
    A client's connection, as the tables of connections use it.

    ``kind`` is its transport (``telemetry.counters``), ``share`` its client's share, ``last_used`` when a query last
    arrived or a response was last sent, in seconds; ``is_waiting`` is written by ``RoundRobin``.
    """

    kind: int
    share: ClientShare
    last_used: float
    is_waiting: bool

    @property
    def is_idle(self) -> bool:
        """
        Whether every query received has been answered.
        """

    def take_turn(self) -> bool:
        """
        Dispatch a batch of queries; return whether more could be dispatched now.
        """

    def abort(self, reason: ClientEnd | None = None) -> None:
        """
        Close the connection at once, and count it under ``reason``.
        """

    def close(self, reason: ClientEnd | None = None) -> None:
        """
        Close the connection once the responses that are ready have been sent, and count it under ``reason``.
        """


class StreamTransport(Protocol):
    """
    The transport of a client's connection: Twisted's TCP or TLS server transport.

    Twisted's ITCPTransport lacks ``bufferSize`` and the methods of producers and consumers.
    """

    bufferSize: int

    def getPeer(self) -> IPv4Address | IPv6Address:
        """
        Return the client's address.
        """

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001 (Twisted's)
        """
        Set TCP_NODELAY.
        """

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: FBT001 (Twisted's)
        """
        Tell ``producer`` when to pause and to resume.
        """

    def unregisterProducer(self) -> None:
        """
        Tell it nothing any more.
        """

    def pauseProducing(self) -> None:
        """
        Stop reading from the client.
        """

    def resumeProducing(self) -> None:
        """
        Read from the client again.
        """

    def write(self, data: bytes) -> None:
        """
        Send octets, in time.
        """

    def loseConnection(self) -> None:
        """
        Close the connection once what was written is sent.
        """

    def abortConnection(self) -> None:
        """
        Close the connection at once.
        """
