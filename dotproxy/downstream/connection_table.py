"""
The table of clients' TCP and TLS connections.

Decides, while the table is full, whether a new connection is accepted and which one is closed for it: one of the client
prefix with most connections, unless that is the new connection's own prefix (RFC 9210 §4.2 leaves the choice to the
server).  Every operation takes constant time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeVar

from dotproxy.downstream.interfaces import ClientConnection
from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShare

#: Connections of clients that are not served: their queries get REFUSED.
MAX_NOT_SERVED: Final = 16

#: Connections compared to find the one unused for longest.
_COMPARED: Final = 32


#: Whatever connections are mapped to.
Value = TypeVar("Value")


class _ClientConnections:
    """
    The connections of a client prefix, in the order in which they are compared next.
    """

    __slots__ = ("connections", "is_limited")

    def __init__(self, *, is_limited: bool) -> None:
        self.connections: OrderedDict[ClientConnection, None] = OrderedDict()
        self.is_limited = is_limited


#: The key of the connections of all clients that are not served.
_NOT_SERVED: Final = "not served"


class ConnectionTable:
    """
    Owns: every connection, by client prefix, and the prefixes by their number of connections.
    Told by: the server factory, and connections that are closed (``remove``).
    """

    def __init__(self) -> None:
        self._connections: OrderedDict[ClientConnection, str] = OrderedDict()
        self._clients: dict[str, _ClientConnections] = {}
        # Clients that are served and limited, by their number of connections, and the highest such number.
        self._by_count: dict[int, OrderedDict[_ClientConnections, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._connections)

    def make_room(self, share: ClientShare, limit: int) -> bool:
        """
        Return whether a client may have one more connection of at most ``limit`` in all; abort another one if that
        makes room for it.
        """
        refused = self._clients.get(_NOT_SERVED)
        if refused is not None and not share.is_served and len(refused.connections) >= MAX_NOT_SERVED:
            return _abort_one(refused.connections)
        if len(self._connections) < limit:
            return True
        if refused is not None:
            return _abort_one(refused.connections)
        if not share.is_served:
            return False
        own = self._clients.get(share.prefix)
        held = len(own.connections) if own is not None and own.is_limited else 0
        if held + 1 < self._most:
            return _abort_one(next(iter(self._by_count[self._most])).connections)
        if own is not None and own.is_limited and held == self._most:
            return _abort_one(own.connections, only_idle=True)
        return _abort_one(self._connections, only_idle=True)

    def add(self, connection: ClientConnection) -> None:
        """
        Add a connection.
        """
        share = connection.share
        share.connections += 1
        prefix = share.prefix if share.is_served else _NOT_SERVED
        client = self._clients.get(prefix)
        if client is None:
            client = self._clients[prefix] = _ClientConnections(is_limited=share.is_served and not share.is_exempt)
        self._connections[connection] = prefix
        client.connections[connection] = None
        self._count(client, len(client.connections) - 1)

    def remove(self, connection: ClientConnection) -> None:
        """
        Remove a connection; do nothing if it is not in the table.
        """
        prefix = self._connections.pop(connection, None)
        if prefix is None:
            return
        connection.share.connections -= 1
        client = self._clients[prefix]
        del client.connections[connection]
        self._count(client, len(client.connections) + 1)
        if not client.connections:
            del self._clients[prefix]

    def _count(self, client: _ClientConnections, before: int) -> None:
        """
        Move a client in ``_by_count`` after its number of connections changed from ``before``.
        """
        if not client.is_limited:
            return
        now = len(client.connections)
        if before:
            others = self._by_count[before]
            del others[client]
            if not others:
                del self._by_count[before]
        if now:
            self._by_count.setdefault(now, OrderedDict())[client] = None
        if now > self._most or (before not in self._by_count and before == self._most):
            self._most = now


def _abort_one(connections: OrderedDict[ClientConnection, Value], *, only_idle: bool = False) -> bool:
    """
    Abort the connection unused for longest, an idle one first; with ``only_idle`` no other.  Return whether there was
    one.

    ``_COMPARED`` connections are compared; the next call compares others.
    """
    best: ClientConnection | None = None
    best_rank = (True, 0.0)
    for connection in list(islice(connections, _COMPARED)):
        connections.move_to_end(connection)
        is_owed = not connection.is_idle
        rank = (is_owed, connection.last_used)
        if not (is_owed and only_idle) and (best is None or rank < best_rank):
            best, best_rank = connection, rank
    if best is None:
        return False
    best.abort(ClientEnd.EVICTED)
    return True
