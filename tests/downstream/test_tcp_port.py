"""
A TCP port in a flood of connections.
"""

import socket
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.tcp_port import ACCEPTS, TcpPort


class Accepted:
    """
    The socket of a client.
    """

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def fileno(self) -> int:
        return 99


class Flooded:
    """
    A listening socket for which clients never end.
    """

    def __init__(self) -> None:
        self.accepted: list[Accepted] = []
        self.dups = 0
        self.options: dict[int, int] = {}

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[option] = value

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 53)

    def dup(self) -> "Flooded":
        self.dups += 1
        return self

    def fileno(self) -> int:
        return 98

    def accept(self) -> tuple[Accepted, tuple[str, int]]:
        self.accepted.append(Accepted())
        return self.accepted[-1], ("127.0.0.66", 4711)


class Full:
    """
    A factory that has no room.
    """

    def __init__(self) -> None:
        self.addresses: list[Any] = []

    def doStart(self) -> None:
        """
        Called by the port.
        """

    def buildProtocol(self, addr: Any) -> None:
        self.addresses.append(addr)


class TcpPortTests(SynchronousTestCase):
    """
    How much is accepted.
    """

    def test_few_connections_are_accepted_in_one_iteration(self) -> None:
        """
        However long a flood lasts, no more than a few connections are accepted in one iteration of the reactor.
        """
        listening, factory = Flooded(), Full()
        port = TcpPort(listening, factory, MemoryReactor())  # type: ignore[arg-type]
        port.startListening()
        for iteration in range(1, 30):
            port.doRead()
            self.assertEqual(iteration * ACCEPTS, len(listening.accepted))
        self.assertTrue(all(accepted.is_closed for accepted in listening.accepted))
        self.assertEqual({IPv4Address("TCP", "127.0.0.66", 4711)}, set(factory.addresses))

    def test_port_has_its_own_descriptor(self) -> None:
        """
        The socket it was given may be closed.
        """
        listening = Flooded()
        port = TcpPort(listening, Full(), MemoryReactor())  # type: ignore[arg-type]
        port.startListening()
        self.assertEqual((1, 53), (listening.dups, port.getHost().port))
        self.assertEqual({socket.TCP_NOTSENT_LOWAT: 524_288}, listening.options)
