"""
The program that has a port of this machine, by the kernel's tables of sockets.

Decides how the tables are read (proc(5): /proc/self/net/udp, tcp, udp6, tcp6), and which of their sockets conflicts
with an address.  Used only after a bind has failed, for the error message.
"""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_PROC = Path("/proc")

#: States in <net/tcp_states.h>: TCP_LISTEN; a bound and unconnected UDP socket has TCP_CLOSE.
_LISTENING = {"tcp": 0x0A, "udp": 0x07}


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """
    A line of a table: a socket that receives what is sent to ``address`` and ``port``.
    """

    address: IPv4Address | IPv6Address
    port: int
    uid: int
    inode: int

    def conflicts_with(self, wanted: IPv4Address | IPv6Address, port: int) -> bool:
        """
        Return whether this socket keeps another one from binding ``wanted`` and ``port``.
        """
        if port != self.port:
            return False
        if self.address == wanted or self.address.is_unspecified:
            return True
        if isinstance(self.address, IPv6Address) and self.address.ipv4_mapped == wanted:
            return True
        return wanted.is_unspecified and wanted.version == self.address.version


def owner_of(host: str, port: int, kind: socket.SocketKind, proc: Path = _PROC) -> str:
    """
    Return the owner of ``port`` on the IP address ``host``: ``"unbound (pid 812)"``, ``"user unbound"`` if the process
    cannot be seen, or ``""`` if there is no such socket or no table.  ``proc`` is the mount point of proc(5).
    """
    wanted = ip_address(host)
    transport = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    # An IPv6 socket may receive IPv4 too.  The reverse does not matter: sockets of dotproxy are IPV6_V6ONLY.
    tables = (transport, f"{transport}6") if wanted.version == 4 else (f"{transport}6",)
    for table in tables:
        # Not /proc/net, which ProcSubset=pid hides.
        for bound in bound_sockets(_text(proc / "self" / "net" / table), _LISTENING[transport]):
            if bound.conflicts_with(wanted, port):
                return _program_with(bound.inode, proc) or _user(bound.uid)
    return ""


def bound_sockets(table: str, state: int) -> Iterator[BoundSocket]:
    """
    Yield the sockets of a table that are in ``state``.
    """
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10:
            continue
        _, local, _, hexadecimal, _, _, _, uid, _, inode = fields[:10]
        if int(hexadecimal, 16) == state:
            address, _, port = local.partition(":")
            yield BoundSocket(_address(address), int(port, 16), int(uid), int(inode))


def _address(text: str) -> IPv4Address | IPv6Address:
    """
    Parse an address: hexadecimal words of 32 bits, each in this machine's byte order.
    """
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    octets = struct.pack(f"={len(words)}I", *words)
    return IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)


def _program_with(inode: int, proc: Path) -> str:
    """
    Return the name and PID of a process that has a socket; "" if none is visible (other users' need root).
    """
    wanted = f"socket:[{inode}]"
    for process in proc.glob("[0-9]*"):
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # it has ended, or belongs to another user
            continue
        if any(_link(descriptor) == wanted for descriptor in descriptors):
            return f"{_text(process / 'comm').strip()} (pid {process.name})"
    return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
