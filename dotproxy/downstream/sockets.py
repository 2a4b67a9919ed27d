"""
Listening sockets for DNS.

Decides the options of a socket, and nothing about its reader.  UDP and TCP are bound together, so that port 0 gives the
same free port for both.  On Linux an address that this machine does not have yet can be bound: dotproxy may have
dropped root's privileges by the time the address is there.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from typing import NamedTuple

from dotproxy.downstream.port_owner import owner_of

_REASONS = {
    EACCES: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
    EADDRNOTAVAIL: "this machine has no such address",
    EAFNOSUPPORT: "this machine has no IPv6",
}

#: What the operator can do about a program that has the address, by a part of its description.
_REMEDIES = {"systemd-resolve": "; DNSStubListener=no in /etc/systemd/resolved.conf frees it"}

#: In <linux/in.h> and <linux/in6.h>; the socket module does not have them.
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78

#: Attempts to find a port that is free for both transports.
_TRIES = 16

#: Connections that wait to be accepted, at most.
_BACKLOG = 1024

#: Octets of the receive buffer of a UDP socket; the kernel's default holds fewer than 300 queries.
_RECEIVE_BUFFER = 4 << 20

#: In <asm/socket.h>: as SO_RCVBUF, but not limited by net.core.rmem_max; needs CAP_NET_ADMIN.
_SO_RCVBUFFORCE = 33

#: In <asm/socket.h> and <linux/sock_diag.h>: nine numbers about a socket's memory; the last, SK_MEMINFO_DROPS, is the
#: number of datagrams dropped for want of room.
_SO_MEMINFO = 55
_SK_MEMINFO = struct.Struct("=9I")


class CannotBind(Exception):
    """
    A socket could not be bound; the text says which one and why.
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
    Return the address and port that a socket is bound to.
    """
    host, port, *_ = bound.getsockname()  # an IPv6 address has two items more
    return Endpoint(host, port)


class SocketPair(NamedTuple):
    """
    The two sockets of one address and port.
    """

    udp: socket.socket
    tcp: socket.socket


class BoundSockets(NamedTuple):
    """
    All sockets of a proxy: ``udp`` has a list for each worker, with a socket for each address.
    """

    udp: list[list[socket.socket]]
    tcp: list[socket.socket]
    tls: list[socket.socket]

    def close(self) -> None:
        """
        Close them all.
        """
        for bound in (*self.tcp, *self.tls, *(one for of_worker in self.udp for one in of_worker)):
            bound.close()


def bind_both(host: str, port: int) -> SocketPair:
    """
    Return a UDP and a listening TCP socket on one address and port, both non-blocking.

    ``host`` is an IP address.  An IPv6 socket takes IPv6 only, so ``0.0.0.0`` and ``::`` go together.  On Linux this
    machine need not have the address yet (``has_address``): the sockets receive datagrams and connections once it has.

    :raises CannotBind: if either cannot be bound.
    """
    for _ in range(_TRIES):
        udp = _bind(host, port, socket.SOCK_DGRAM)
        try:
            tcp = _bind(host, port or endpoint_of(udp).port, socket.SOCK_STREAM)
        except CannotBind:
            udp.close()
            if port:
                raise
            continue
        return SocketPair(udp, tcp)
    raise CannotBind(f"no port of {host} is free for both UDP and TCP")


def bind_all(addresses: Iterable[Endpoint], tls_addresses: Iterable[Endpoint] = (), workers: int = 1) -> BoundSockets:
    """
    Bind UDP and TCP sockets to ``addresses`` and TCP sockets for TLS to ``tls_addresses``; all or none.

    Each worker gets a UDP socket of its own on each address; the kernel distributes datagrams among them.

    :raises CannotBind: naming every address that cannot be bound.
    """
    bound = BoundSockets([[] for _ in range(workers)], [], [])
    problems: list[str] = []
    for host, port in addresses:
        try:
            at_address = _bind_address(host, port, workers)
        except CannotBind as problem:
            problems.append(str(problem))
            continue
        bound.tcp.append(at_address.tcp)
        for of_worker, udp in zip(bound.udp, at_address.udp, strict=True):
            of_worker.append(udp)
    for host, port in tls_addresses:
        try:
            bound.tls.append(bind_stream(host, port))
        except CannotBind as problem:
            problems.append(str(problem))
    if problems:
        bound.close()
        raise CannotBind("\n".join(problems))
    return bound


class _AddressSockets(NamedTuple):
    """
    The sockets of one address and port: ``udp`` has one for each worker.
    """

    udp: list[socket.socket]
    tcp: socket.socket


def _bind_address(host: str, port: int, workers: int) -> _AddressSockets:
    """
    Bind the sockets of one address, all or none; see ``bind_all``.
    """
    pair = bind_both(host, port)
    if workers == 1:
        return _AddressSockets([pair.udp], pair.tcp)
    # The pair is bound without SO_REUSEPORT, so no other program shares the address; the workers' sockets need it.
    free_port = endpoint_of(pair.udp).port
    pair.udp.close()
    with ExitStack() as opened:
        opened.enter_context(pair.tcp)
        udp = [opened.enter_context(_bind(host, free_port, socket.SOCK_DGRAM, is_shared=True)) for _ in range(workers)]
        opened.pop_all()
    return _AddressSockets(udp, pair.tcp)


def bind_stream(host: str, port: int) -> socket.socket:
    """
    Return a listening, non-blocking TCP socket; see ``bind_both``.

    :raises CannotBind: if it cannot be bound.
    """
    return _bind(host, port, socket.SOCK_STREAM)


def has_address(host: str) -> bool:
    """
    Return whether this machine has the IP address ``host`` now, or ``host`` is a wildcard.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != EADDRNOTAVAIL
    return True


def drop_count(bound: socket.socket) -> int:
    """
    Return how many datagrams the kernel dropped because the receive buffer was full; 0 where it does not tell.
    """
    try:
        *_, drops = _SK_MEMINFO.unpack(bound.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _SK_MEMINFO.size))
    except (OSError, struct.error):  # it is closed, or this is not Linux
        return 0
    return int(drops)


def _bind(host: str, port: int, kind: socket.SocketKind, *, is_shared: bool = False) -> socket.socket:
    with ExitStack() as opened:
        try:
            ((family, _, _, _, address), *_) = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
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


def _bind_or_freebind(bound: socket.socket, address: tuple[object, ...]) -> None:
    """
    Bind a socket; on Linux also to an address that this machine does not have yet (IP_FREEBIND, ip(7)).
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
        _, _, interface = host.partition("%")
        return f"this machine has no interface {interface}"
    if error.errno != EADDRINUSE:
        return _REASONS.get(error.errno or 0, error.strerror or str(error))
    owner = owner_of(host, port, kind)
    remedy = next((text for name, text in _REMEDIES.items() if name in owner), "")
    return f"the address is in use by {owner or 'another program'}{remedy}"


def _enlarge_buffer(bound: socket.socket) -> None:
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        with suppress(OSError):  # then the kernel's default remains
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
