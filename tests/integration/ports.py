"""
Which ports and addresses of the loopback device the servers of the tests listen on.

Decides it so that test processes that run at the same time never choose the same: each process reserves a block of
ports below the kernel's ephemeral range (``net.ipv4.ip_local_port_range``) and uses them in turn, and a network
127.53.<block>.0/24.  An abstract Unix socket stands for each reserved block; the kernel removes it with its process.
"""

import contextlib
import functools
import itertools
import os
import socket
import sys

_FIRST, _COUNT, _SIZE = 10240, 88, 256


class Block:
    """
    The ports and addresses of this process; other systems than Linux have no abstract sockets, and nothing is reserved.
    """

    def __init__(self) -> None:
        self._holder = socket.socket(socket.AF_UNIX)
        self.number = self._reserve()
        first = _FIRST + self.number * _SIZE
        self.ports = itertools.cycle(range(first, first + _SIZE))
        self.hosts = iter(range(1, 255))

    def _reserve(self) -> int:
        for candidate in range(_COUNT):
            number = (os.getpid() + candidate) % _COUNT
            if sys.platform != "linux":
                return number
            with contextlib.suppress(OSError):
                self._holder.bind(f"\0dotproxy tests, ports, block {number}")
                return number
        raise AssertionError(f"{_COUNT} test processes have reserved all ports")


@functools.cache
def _block() -> Block:
    return Block()


def free_port() -> int:
    """
    Return a port of 127.0.0.1 that is free for TCP and UDP.
    """
    for port in itertools.islice(_block().ports, _SIZE):
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram, contextlib.suppress(OSError):
            stream.bind(("127.0.0.1", port))
            datagram.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def loopback_address() -> str:
    """
    Return an address of the loopback device that no other test is given, for a server on port 53.
    """
    block = _block()
    return f"127.53.{block.number}.{next(block.hosts)}"
