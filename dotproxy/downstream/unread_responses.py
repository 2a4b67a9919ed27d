"""
Octets of responses that TCP clients have not read.

Decides when a connection is ended because there are too many: of one connection, or of all; ``policy.stream_limits``
has the numbers, and says which ones then go.
"""

from __future__ import annotations

from typing import Protocol

from dotproxy.errors import ClientEnd
from dotproxy.policy.client_shares import ClientShare
from dotproxy.policy.stream_limits import DOES_NOT_READ_FOR, MAX_UNREAD, MAX_UNREAD_IN_ALL, most_unread


class Reader(Protocol):
    """
    A connection whose client does or does not read.
    """

    share: ClientShare

    def abort(self, reason: ClientEnd | None = None) -> None:
        """
        End the connection now; it then has nothing unread.
        """


class UnreadResponses:
    """
    Owns: how many octets are unread of each connection that cannot be written to, and of all, ``total``.
    Told by: connections (``note``).

    A connection with little unread is not known here: the transport takes it and says nothing.  So there are never more
    entries than ``MAX_UNREAD_IN_ALL`` divided by what a transport takes.
    """

    def __init__(self) -> None:
        self.total = 0
        self._of: dict[Reader, int] = {}

    def note(self, connection: Reader, octets: int, now: float = 0.0) -> None:
        """
        So many are unread of a connection now.  Ends connections, if they are too many.
        """
        more = octets - self._of.pop(connection, 0)
        if octets:
            self._of[connection] = octets
        self.total += more
        connection.share.unread += more
        if octets > MAX_UNREAD:
            self._end(connection, ClientEnd.UNREAD, now)
        elif self.total > MAX_UNREAD_IN_ALL:
            unread = [(one, one.share.prefix, count) for one, count in self._of.items()]
            for ended in most_unread(unread):
                self._end(ended, ClientEnd.UNREAD_IN_ALL, now)

    def _end(self, connection: Reader, reason: ClientEnd, now: float) -> None:
        connection.share.does_not_read_until = now + DOES_NOT_READ_FOR
        connection.abort(reason)
