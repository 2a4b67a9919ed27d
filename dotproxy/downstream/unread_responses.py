"""
Octets of responses that TCP clients have not read.

Decides when unread responses end connections: too many on one connection, or on all of them.
``policy.stream_limits`` has the limits and selects the connections.
"""

from __future__ import annotations

from dotproxy.downstream.interfaces import ClientConnection
from dotproxy.errors import ClientEnd
from dotproxy.policy.stream_limits import (
    MAX_UNREAD_PER_CONNECTION,
    MAX_UNREAD_TOTAL,
    NOT_READING_SECONDS,
    connections_to_end,
)


class UnreadResponses:
    """
    Owns: the number of unread octets of each connection that cannot be written to, and their sum, ``total``.
    Told by: connections (``update``).

    A few unread octets of a connection stay in its transport, which does not report them.  So there are at most
    ``MAX_UNREAD_IN_ALL`` divided by the transport's buffer entries.
    """

    def __init__(self) -> None:
        self.total = 0
        self._octets: dict[ClientConnection, int] = {}

    def update(self, connection: ClientConnection, octets: int, now: float = 0.0) -> None:
        """
        Set the number of unread octets of a connection; abort connections if that exceeds a limit.
        """
        more = octets - self._octets.pop(connection, 0)
        if octets:
            self._octets[connection] = octets
        self.total += more
        connection.share.unread += more
        if octets > MAX_UNREAD_PER_CONNECTION:
            self._abort(connection, ClientEnd.UNREAD, now)
        elif self.total > MAX_UNREAD_TOTAL:
            unread = [(one, one.share.prefix, count) for one, count in self._octets.items()]
            for connection_of_most in connections_to_end(unread):
                self._abort(connection_of_most, ClientEnd.UNREAD_IN_ALL, now)

    def _abort(self, connection: ClientConnection, reason: ClientEnd, now: float) -> None:
        connection.share.does_not_read_until = now + NOT_READING_SECONDS
        connection.abort(reason)
