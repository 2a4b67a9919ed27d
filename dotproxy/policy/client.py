"""
Who sent a query, for everything that decides by that.

Decides nothing: an address, and what the listener needs to send a response there.
"""

from __future__ import annotations

from typing import Final

#: The port of a client inside this process, which has none.
NO_PORT: Final = -1


class Client:
    """
    The client that a query came from and its response goes to.

    ``host`` is its IP address in presentation form, "" inside this process; ``port`` its source port.  ``route`` is
    for the listener that made this record alone: how a response gets to this client.
    """

    __slots__ = ("host", "port", "route")

    def __init__(self, host: str, port: int, route: object = None) -> None:
        self.host = host
        self.port = port
        self.route = route


#: A query and the client that sent it, or a response and the client that gets it.
ClientMessage = tuple[bytes, Client]
