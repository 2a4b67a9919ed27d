"""
Listening sockets, bound the way DNS needs them.

Decides the options of a socket; who reads from it is decided elsewhere.  UDP and TCP are bound together,
so that port 0 gives the same free port for both.  An address that this machine does not have yet can be bound on Linux:
root may have been given up by the time that it is there.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from typing import Any, NamedTuple

from dotproxy.downstream.port_owner import owner_of

_REASONS = {
    EACCES: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
    EADDRNOTAVAIL: "this machine has no such address",
    EAFNOSUPPORT: "this machine has no IPv6",
}

#: What to do about a program that is in the way, by what its description contains.
_REMEDIES = {"systemd-resolve": "; DNSStubListener=no in /etc/systemd/resolved.conf frees it"}

#: In <linux/in.h> and <linux/in6.h>; the socket module has neither.
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78

#: How often a free port is looked for that is free for both transports.
_TRIES = 16
_BACKLOG = 1024

#: Octets of datagrams the kernel keeps until they are read; its own default holds fewer than 300 queries.
_RECEIVE_BUFFER = 4 << 20
#: In <asm/socket.h>: as SO_RCVBUF, beyond net.core.rmem_max, for those who may.
_SO_RCVBUFFORCE = 33

#: In <asm/socket.h> and <linux/sock_diag.h>: nine numbers about a socket's memory, of which the last says how many
#: datagrams found no room.
_SO_MEMINFO = 55
_MEMORY = struct.Struct("=9I")


class CannotBind(Exception):
    """
    A socket could not be bound; the text says which, and why.
    """


class Endpoint(NamedTuple):
    """
    An IP address in presentation form, with its zone if it has one, and a port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint_of(bound: socket.socket) -> Endpoint:
    """
    Return where a socket is bound.
    """
    host, port = bound.getsockname()[:2]
    return Endpoint(host, port)


def bind_both(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """
    Return a UDP and a listening TCP socket on one address and port, both non-blocking.

    ``host`` is an IP address.  An IPv6 socket takes IPv6 only, so ``0.0.0.0`` and ``::`` go together.  On Linux it need
    not be there yet (``has_address``): the sockets receive what is sent to it as soon as it is.

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


def bind_every(
    addresses: Iterable[tuple[str, int]], count: int = 1
) -> tuple[list[list[socket.socket]], list[socket.socket]]:
    """
    Return ``count`` lists of UDP sockets, one for each address, and a list of TCP sockets; see ``bind_both``.

    The kernel distributes clients over UDP among the sockets of an address.  All are bound or none.

    :raises CannotBind: naming every address that cannot be.
    """
    datagrams: list[list[socket.socket]] = [[] for _ in range(count)]
    streams: list[socket.socket] = []
    problems: list[str] = []
    for host, port in addresses:
        try:
            one, listening = bind_both(host, port)
            streams.append(listening)
            if count == 1:
                datagrams[0].append(one)
                continue
            # Nobody else was bound there, whom we would share with.
            port = one.getsockname()[1]  # noqa: PLW2901 (which one is free is known now)
            one.close()
            for several in datagrams:
                several.append(_bind(host, port, socket.SOCK_DGRAM, is_shared=True))
        except CannotBind as problem:
            problems.append(str(problem))
    if problems:
        for bound in (*streams, *(one for several in datagrams for one in several)):
            bound.close()
        raise CannotBind("\n".join(problems))
    return datagrams, streams


def bind_with_tls(
    addresses: Iterable[tuple[str, int]], tls_addresses: Iterable[tuple[str, int]], count: int = 1
) -> tuple[list[list[socket.socket]], list[socket.socket], list[socket.socket]]:
    """
    Return what ``bind_every`` does, and a list of listening TCP sockets on ``tls_addresses``.  All are bound or none.

    :raises CannotBind: naming every address that cannot be.
    """
    tls_streams: list[socket.socket] = []
    problems: list[str] = []
    try:
        datagrams, streams = bind_every(addresses, count)
    except CannotBind as problem:
        datagrams, streams = [], []
        problems.append(str(problem))
    for host, port in tls_addresses:
        try:
            tls_streams.append(bind_stream(host, port))
        except CannotBind as problem:
            problems.append(str(problem))
    if problems:
        for bound in (*streams, *tls_streams, *(one for several in datagrams for one in several)):
            bound.close()
        raise CannotBind("\n".join(problems))
    return datagrams, streams, tls_streams


def bind_stream(host: str, port: int) -> socket.socket:
    """
    Return a listening TCP socket; see ``bind_both``.

    :raises CannotBind: if there cannot be one.
    """
    return _bind(host, port, socket.SOCK_STREAM)


def has_address(host: str) -> bool:
    """
    Return whether the IP address ``host`` is one of this machine's now, or a wildcard.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as tried:
            tried.bind((host, 0))
    except OSError as error:
        return error.errno != EADDRNOTAVAIL
    return True


def drop_count(bound: socket.socket) -> int:
    """
    Return how many datagrams the kernel has thrown away, because there was no room for them; 0 where it does not say.
    """
    try:
        return int(_MEMORY.unpack(bound.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size))[8])
    except (OSError, struct.error):  # it is closed; or this is another system
        return 0


def _bind(host: str, port: int, kind: socket.SocketKind, *, is_shared: bool = False) -> socket.socket:
    with ExitStack() as opened:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
            bound = opened.enter_context(socket.socket(family, kind))
            bound.setblocking(False)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if is_shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if kind == socket.SOCK_STREAM:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                _enlarge_buffer(bound)
            _bind_or_freebind(bound, address)
            if kind == socket.SOCK_STREAM:
                bound.listen(_BACKLOG)
        except OSError as error:
            transport = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
            reason = _reason(error, host, port, kind)
            raise CannotBind(f"cannot listen on {host} port {port} ({transport}): {reason}") from None
        opened.pop_all()
    return bound


def _bind_or_freebind(bound: socket.socket, address: Any) -> None:
    """
    Bind to an address; on Linux to one that is not there yet, too (ip(7): IP_FREEBIND).
    """
    try:
        bound.bind(address)
    except OSError as error:
        if error.errno != EADDRNOTAVAIL or sys.platform != "linux":
            raise
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        bound.bind(address)


def _reason(error: OSError, host: str, port: int, kind: socket.SocketKind) -> str:
    if isinstance(error, socket.gaierror) and "%" in host:
        return f"this machine has no interface {host.partition('%')[2]}"
    if error.errno != EADDRINUSE:
        return _REASONS.get(error.errno or 0, error.strerror or str(error))
    owner = owner_of(host, port, kind)
    remedy = next((text for name, text in _REMEDIES.items() if name in owner), "")
    return f"the address is in use by {owner or 'another program'}{remedy}"


def _enlarge_buffer(bound: socket.socket) -> None:
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        with suppress(OSError):  # then it stays as the kernel made it
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
