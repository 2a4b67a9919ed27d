"""
The server factory: what all listeners of a proxy share.

Decides how connections of clients are built.  ``ConnectionTable`` decides who may connect, ``RoundRobin`` whose queries
are next, and the query receiver everything about a query.

It is twisted.names' own factory, except that messages stay octets: its decoder loses flags, EDNS, classes and
compression, and takes seconds for a hostile name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.interfaces import IAddress, IReactorTime, IResolver
from twisted.names.server import DNSServerFactory

from dotproxy.downstream.connection_table import ConnectionTable
from dotproxy.downstream.interfaces import CountingReceiver
from dotproxy.downstream.round_robin import RoundRobin
from dotproxy.downstream.tcp import TcpConnection
from dotproxy.downstream.unread_responses import UnreadResponses
from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShare
from dotproxy.telemetry.counters import Counters

#: The class of a connection: over TCP or TLS.
ConnectionType = TypeVar("ConnectionType", bound=TcpConnection)


class ListenerFactory(DNSServerFactory):
    """
    Told by: Twisted (``buildProtocol``), its listeners and connections.
    Tells: ``receiver``, of queries.

    ``resolver`` answers queries that reach the factory through twisted.names, as decoded messages.  ``share_of``
    returns the share of the client at an address.  ``ended_counts`` counts the connections that dotproxy ended or
    refused, by ``ClientEnd``.
    """

    noisy = False
    protocol = TcpConnection  # type: ignore[assignment]  # Twisted's own comment calls its type wrong
    connections: ConnectionTable  # type: ignore[assignment]  # a list costs time by its length when one ends

    def __init__(
        self,
        receiver: CountingReceiver,
        resolver: IResolver,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        idle_timeout: float,
        max_connections: int,
        max_outstanding: int,
        share_of: Callable[[str], ClientShare],
        ended_counts: Counter[str] | None = None,
        tells_idle_timeout: bool = True,
    ) -> None:
        super().__init__(clients=[resolver])
        self.connections = ConnectionTable()
        self.round_robin = RoundRobin(clock, now)
        self.unread_responses = UnreadResponses()
        self.share_of = share_of
        self.ended_counts: Counter[str] = Counter() if ended_counts is None else ended_counts
        self.handle_batch = receiver.handle_batch
        self._receiver = receiver
        self.clock = clock
        self.now = now
        self.idle_timeout = idle_timeout
        self.max_connections = max_connections
        self.max_outstanding = max_outstanding
        self.tells_idle_timeout = tells_idle_timeout

    @property
    def counters(self) -> Counters:
        """
        The counters for queries that are dropped before they are processed.
        """
        return self._receiver.counters

    def buildProtocol(self, addr: IAddress | None) -> TcpConnection | None:
        """
        Return a connection for a client over TCP, or None if there is no room for it.
        """
        return self.build_connection(addr, TcpConnection)

    def build_connection(self, addr: IAddress | None, connection_class: type[ConnectionType]) -> ConnectionType | None:
        """
        Return a connection of a class for a client, or None if there is no room for it.
        """
        share = self.share_of(getattr(addr, "host", ""))
        if not self.connections.make_room(share, self.max_connections):
            self.count_end(ClientEnd.REFUSED)
            return None
        connection = connection_class(self)
        connection.factory = self
        connection.share = share
        return connection

    def connectionMade(self, protocol: TcpConnection) -> None:
        """
        Add a connection to the table.
        """
        self.connections.add(protocol)

    def connectionLost(self, protocol: TcpConnection) -> None:
        """
        Remove a connection from the table.
        """
        self.connections.remove(protocol)

    def count_end(self, reason: ClientEnd | None) -> None:
        """
        Count a connection that dotproxy ended or refused; None is not counted.
        """
        if reason is not None:
            self.ended_counts[reason] += 1
