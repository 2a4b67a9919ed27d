"""
Which TCP clients are connected, and who makes room for whom.

Decides, while the table is full, whether a new connection is taken and which one is ended for it: one of the client
prefix that has most, unless that is the newcomer's own (RFC 9210 §4.2 leaves it to the server).  Every step takes the
same time however many connections there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, Protocol

from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShare

#: Connections of clients that are not served, which get REFUSED and no more.
MAX_NOT_SERVED: Final = 16

#: Connections looked at to find the one that was idle longest.
_LOOKED_AT: Final = 32


class Held(Protocol):
    """
    A connection; ``last_used`` is when a query came or a response went last, ``kind`` how queries come over it.
    """

    kind: int
    share: ClientShare
    last_used: float

    @property
    def is_idle(self) -> bool:
        """
        Whether nothing is owed to the client.
        """

    def abort(self, reason: ClientEnd | None = None) -> None:
        """
        End the connection now; it then is not in the table.
        """

    def close(self, reason: ClientEnd | None = None) -> None:
        """
        End the connection when the responses that are ready have gone out.
        """


class _Client:
    """
    The connections of a client prefix, in the order in which they are looked at.
    """

    __slots__ = ("connections", "is_limited")

    def __init__(self, *, is_limited: bool) -> None:
        self.connections: OrderedDict[Held, None] = OrderedDict()
        self.is_limited = is_limited


#: All clients together that are not served.
_NOT_SERVED: Final = "not served"


class ConnectionTable:
    """
    Owns: every connection there is, by client prefix, and the prefixes by how many they have.
    Told by: the server factory, and connections that are ended (``remove``).
    """

    def __init__(self) -> None:
        self._connections: OrderedDict[Held, str] = OrderedDict()
        self._clients: dict[str, _Client] = {}
        # Those that are served and limited: which have so many connections, and how many the most are.
        self._by_count: dict[int, OrderedDict[_Client, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._connections)

    def make_room(self, share: ClientShare, limit: int) -> bool:
        """
        Return whether a client may have one more connection, if there may be ``limit`` in all; end another for it if
        that is what it takes.
        """
        refused = self._clients.get(_NOT_SERVED)
        if refused is not None and not share.is_served and len(refused.connections) >= MAX_NOT_SERVED:
            return _end_one(refused.connections)
        if len(self._connections) < limit:
            return True
        if refused is not None:
            return _end_one(refused.connections)
        if not share.is_served:
            return False
        own = self._clients.get(share.prefix)
        held = len(own.connections) if own is not None and own.is_limited else 0
        if held + 1 < self._most:
            return _end_one(next(iter(self._by_count[self._most])).connections)
        if own is not None and own.is_limited and held == self._most:
            return _end_one(own.connections, among_idle=True)
        return _end_one(self._connections, among_idle=True)

    def add(self, connection: Held) -> None:
        """
        A connection has begun.
        """
        share = connection.share
        share.connections += 1
        prefix = share.prefix if share.is_served else _NOT_SERVED
        client = self._clients.get(prefix)
        if client is None:
            client = self._clients[prefix] = _Client(is_limited=share.is_served and not share.is_exempt)
        self._connections[connection] = prefix
        client.connections[connection] = None
        self._count(client, len(client.connections) - 1)

    def remove(self, connection: Held) -> None:
        """
        A connection has ended; that may be told twice.
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

    def _count(self, client: _Client, before: int) -> None:
        """
        A client has one connection more or less than before.
        """
        if not client.is_limited:
            return
        now = len(client.connections)
        if before:
            there = self._by_count[before]
            del there[client]
            if not there:
                del self._by_count[before]
        if now:
            self._by_count.setdefault(now, OrderedDict())[client] = None
        if now > self._most or (before not in self._by_count and before == self._most):
            self._most = now


def _end_one(connections: OrderedDict[Held, Any], *, among_idle: bool = False) -> bool:
    """
    End the connection that was not used for longest, an idle one if there is one, or only an idle one; return whether
    there was one.

    Of more than a few, it is that one of a few, which are others each time.
    """
    best: Held | None = None
    best_rank = (True, 0.0)
    for connection in list(islice(connections, _LOOKED_AT)):
        connections.move_to_end(connection)
        is_owed = not connection.is_idle
        rank = (is_owed, connection.last_used)
        if not (is_owed and among_idle) and (best is None or rank < best_rank):
            best, best_rank = connection, rank
    if best is None:
        return False
    best.abort(ClientEnd.EVICTED)
    return True
