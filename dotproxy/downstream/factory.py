"""
The server factory: what all listeners of a proxy share.

Decides how many stream clients there may be, and which of them makes room for a new one.  Everything
else about a question is decided by whoever it hands questions to.

It is twisted.names' own factory, with the octets taken off before twisted.names would decode them (its
decoder loses flags, EDNS, classes and compression, and a hostile name costs it seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IAddress, IReactorTime, IResolver
from twisted.names.server import DNSServerFactory

from dotproxy.downstream.stream import StreamListener

#: What serves a stream client, by TCP or TLS.
Listening = TypeVar("Listening", bound=StreamListener)


class Asker(Protocol):
    """
    Who takes questions: the forwarder.
    """

    def questions_received(self, listener: Any, batch: Sequence[tuple[bytes, Any]]) -> int:
        """
        Take questions; return how many of them will never be answered.
        """


class ListenerFactory(DNSServerFactory):
    """
    Told by: Twisted (``buildProtocol``), its listeners.
    Tells: ``asker``.

    ``resolver`` serves whatever reaches the factory the way of twisted.names, as decoded messages.
    """

    noisy = False
    protocol = StreamListener  # type: ignore[assignment]  # Twisted's own comment calls its type wrong

    def __init__(
        self,
        asker: Asker,
        resolver: IResolver,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        idle_timeout: float,
        max_connections: int,
        max_outstanding: int,
        tells_idle_timeout: bool = True,
    ) -> None:
        super().__init__(clients=[resolver])
        self.questions_received = asker.questions_received
        self.clock = clock
        self.now = now
        self.idle_timeout = idle_timeout
        self.max_connections = max_connections
        self.max_outstanding = max_outstanding
        self.tells_idle_timeout = tells_idle_timeout

    def buildProtocol(self, addr: IAddress | None) -> StreamListener | None:
        """
        Take a client over TCP.
        """
        return self.build_listener(addr, StreamListener)

    def build_listener(self, addr: IAddress | None, kind: type[Listening]) -> Listening | None:
        """
        Take a stream client; the one that was idle longest makes room for it (RFC 9210 §4.2).
        """
        if len(self.connections) >= self.max_connections:
            idle = [connection for connection in self.connections if connection.is_idle]
            if not idle:
                return None
            min(idle, key=lambda connection: connection.last_used).abort()
        listener = kind(self)
        listener.factory = self
        return listener
