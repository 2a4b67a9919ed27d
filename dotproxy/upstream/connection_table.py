"""
The connections of one upstream that all its queries share.

Decides nothing: it knows each connection, by its state, and which of the open ones takes queries now.
"""

from __future__ import annotations

from collections.abc import Iterator

from dotproxy.upstream.connection import DotConnection
from dotproxy.upstream.connection_state import DRAINING, ConnectionState


class ConnectionTable:
    """
    Owns: the list of connections, each until it is closed, in the order in which they last became spare.
    Told by: the pool.

    ``active`` is the one that takes queries; every other open one is a spare.
    """

    def __init__(self) -> None:
        self.active: DotConnection | None = None
        self._connections: dict[DotConnection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[DotConnection]:
        return iter(tuple(self._connections))

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections

    def add(self, connection: DotConnection) -> None:
        """
        Add a connection that is open.
        """
        self._connections[connection] = None

    def remove(self, connection: DotConnection) -> None:
        """
        Remove a connection that is closed; a spare takes its place.  One that was never added is no error.
        """
        self._connections.pop(connection, None)
        if connection is self.active:
            self.activate_spare()

    def in_state(self, state: ConnectionState) -> list[DotConnection]:
        """
        Return the connections in a state.
        """
        return [connection for connection in self._connections if connection.state is state]

    @property
    def before_retirement(self) -> list[DotConnection]:
        """
        The connections whose queries were not handed back: those that take queries, and those that drain.
        """
        return [connection for connection in self._connections if connection.state <= DRAINING]

    @property
    def spares(self) -> list[DotConnection]:
        """
        The open connections beside the active one.
        """
        if self.active is not None and len(self._connections) == 1:
            return []  # nearly always
        return [one for one in self._connections if one.state < DRAINING and one is not self.active]

    @property
    def outstanding(self) -> int:
        """
        The number of queries without a reply, over all connections.
        """
        return sum(connection.outstanding for connection in self._connections)

    def activate(self, connection: DotConnection) -> None:
        """
        Make a connection the active one; the one that was becomes the newest spare.
        """
        before, self.active = self.active, connection
        if before is not None and before in self._connections:
            del self._connections[before]
            self._connections[before] = None

    def activate_spare(self) -> None:
        """
        Make the newest spare the active connection, or none if there is none.
        """
        self.active = None
        self.active = next(reversed(self.spares), None)
