"""
Listening sockets, bound the way DNS needs them.

Decides the options of a socket; who reads from it is decided elsewhere.  UDP and TCP are bound together,
so that port 0 gives the same free port for both.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL

_REASONS = {
    EACCES: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
    EADDRINUSE: "the address is in use; another DNS server is running there",
    EADDRNOTAVAIL: "this machine has no such address",
}

#: How often a free port is looked for that is free for both transports.
_TRIES = 16
_BACKLOG = 1024

#: Octets of datagrams the kernel keeps until they are read; its own default holds fewer than 300 queries.
_RECEIVE_BUFFER = 4 << 20
#: In <asm/socket.h>: as SO_RCVBUF, beyond net.core.rmem_max, for those who may.
_SO_RCVBUFFORCE = 33


class CannotBind(Exception):
    """
    A socket could not be bound; the text says which, and why.
    """


def bind_both(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """
    Return a UDP and a listening TCP socket on one address and port, both non-blocking.

    ``host`` is an IP address.  An IPv6 socket takes IPv6 only, so ``0.0.0.0`` and ``::`` go together.

    :raises CannotBind: if either cannot be.
    """
    for _ in range(_TRIES):
        datagrams = _bind(host, port, socket.SOCK_DGRAM)
        try:
            streams = _bind(host, port or datagrams.getsockname()[1], socket.SOCK_STREAM)
        except CannotBind:
            datagrams.close()
            if port:
                raise
            continue
        return datagrams, streams
    raise CannotBind(f"no port of {host} is free for both UDP and TCP")


def _bind(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
    bound = socket.socket(family, kind)
    try:
        bound.setblocking(False)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            _enlarge_buffer(bound)
        bound.bind(address)
        if kind == socket.SOCK_STREAM:
            bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        transport = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise CannotBind(f"cannot listen on {host} port {port} ({transport}): {reason}") from None
    return bound


def _enlarge_buffer(bound: socket.socket) -> None:
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        with suppress(OSError):  # then it stays as the kernel made it
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
