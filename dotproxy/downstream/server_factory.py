"""
The server factory: what all listeners of a proxy share.

Decides how connections of clients are built.  ``ConnectionTable`` decides who may connect, ``RoundRobin`` whose queries
are next, and the query receiver everything about a query.

It is twisted.names' own factory, except that messages stay octets: its decoder loses flags, EDNS, classes and
compression, and takes seconds for a hostile name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IAddress, IReactorTime, IResolver
from twisted.names.server import DNSServerFactory

from dotproxy.downstream.connection_table import ConnectionTable
from dotproxy.downstream.round_robin import RoundRobin
from dotproxy.downstream.tcp import TcpConnection
from dotproxy.downstream.unread_responses import UnreadResponses
from dotproxy.errors import ClientEnd
from dotproxy.policy.client import ClientMessage
from dotproxy.policy.client_shares import ClientShare
from dotproxy.telemetry.counters import Counters

#: What serves a stream client, by TCP or TLS.
ConnectionType = TypeVar("ConnectionType", bound=TcpConnection)


class QueryReceiver(Protocol):
    """
    Who takes questions: the forwarder.
    """

    @property
    def counters(self) -> Counters:
        """
        Where queries that listeners drop are counted.
        """

    def handle_batch(self, listener: Any, batch: Sequence[ClientMessage]) -> int:
        """
        Take questions; return how many of them will never be answered.
        """


class ListenerFactory(DNSServerFactory):
    """
    Told by: Twisted (``buildProtocol``), its listeners.
    Tells: ``asker``.

    ``resolver`` serves whatever reaches the factory the way of twisted.names, as decoded messages.  ``share_of``
    returns the share of a client that is connected from an address.  ``ended`` counts the TCP connections that were
    ended or refused here, by ``ClientEnd``.
    """

    noisy = False
    protocol = TcpConnection  # type: ignore[assignment]  # Twisted's own comment calls its type wrong
    connections: ConnectionTable  # type: ignore[assignment]  # a list costs time by its length when one ends

    def __init__(
        self,
        asker: QueryReceiver,
        resolver: IResolver,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        idle_timeout: float,
        max_connections: int,
        max_outstanding: int,
        share_of: Callable[[str], ClientShare],
        ended: Counter[str] | None = None,
        tells_idle_timeout: bool = True,
    ) -> None:
        super().__init__(clients=[resolver])
        self.connections = ConnectionTable()
        self.turns = RoundRobin(clock, now)
        self.unread = UnreadResponses()
        self.share_of = share_of
        self.ended: Counter[str] = Counter() if ended is None else ended
        self.handle_batch = asker.handle_batch
        self._asker = asker
        self.clock = clock
        self.now = now
        self.idle_timeout = idle_timeout
        self.max_connections = max_connections
        self.max_outstanding = max_outstanding
        self.tells_idle_timeout = tells_idle_timeout

    @property
    def counters(self) -> Counters:
        """
        Where queries that are dropped before they are processed are counted.
        """
        return self._asker.counters

    def buildProtocol(self, addr: IAddress | None) -> TcpConnection | None:
        """
        Take a client over TCP.
        """
        return self.build_connection(addr, TcpConnection)

    def build_connection(self, addr: IAddress | None, kind: type[ConnectionType]) -> ConnectionType | None:
        """
        Take a stream client, unless there is no room for it.
        """
        share = self.share_of(getattr(addr, "host", ""))
        if not self.connections.make_room(share, self.max_connections):
            self.count_end(ClientEnd.REFUSED)
            return None
        listener = kind(self)
        listener.factory = self
        listener.share = share
        return listener

    def connectionMade(self, protocol: TcpConnection) -> None:
        """
        A stream client is connected.
        """
        self.connections.add(protocol)

    def connectionLost(self, protocol: TcpConnection) -> None:
        """
        A stream client is connected no more.
        """
        self.connections.remove(protocol)

    def count_end(self, reason: ClientEnd | None) -> None:
        """
        A connection is ended or refused here, if there is a reason: for one that is worth counting.
        """
        if reason is not None:
            self.ended[reason] += 1
