"""
A packet capture while test names are looked up: which servers get queries on port 53, and what arrives at dotproxy.

Decides which names are looked up, how long the capture lasts, and what is read from a packet: its destination, and
whether it has a test name.  Other names are neither kept nor shown.  The capture needs Linux and root.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from dotproxy.cli.doctor.diagnosis import Evidence, Listening
from dotproxy.cli.doctor.system import Server

#: The zone of test names; it does not exist (RFC 6761 §6.2), so that no real name is sent.
ZONE = "test"

#: Number of test names.
NAMES = 4

#: Seconds that all lookups may take; the C library allows 5 s a try.
LOOKUP_TIMEOUT = 12.0

#: Seconds that the capture goes on after the last lookup, for late queries.
LINGER = 0.5

#: Packets kept at most, and octets kept of each: the question is at the front.
_KEPT_PACKETS, _KEPT_OCTETS = 10_000, 1500

_ETH_P_ALL = 3
_IPV4, _IPV6 = 0x0800, 0x86DD
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER in <asm-generic/socket.h>
_LONGEST = 65535
_PORT = 53

#: struct sock_filter: what to do, how far to go if so and if not, a constant (<linux/bpf_common.h>).
_INSTRUCTION = struct.Struct("=HBBI")
_LD_B, _LD_H, _LDX_HEADER, _LD_H_INDEXED = 0x30, 0x28, 0xB1, 0x48
_AND, _JUMP_IF_EQUAL, _RETURN = 0x54, 0x15, 0x06


def make_names() -> tuple[str, ...]:
    """
    Return test names that were never used before.
    """
    return tuple(f"{secrets.token_hex(8)}.{ZONE}" for _ in range(NAMES))


def look_up(names: Sequence[str]) -> bool:
    """
    Look names up with getaddrinfo(3), as programs do; return whether all lookups ended in time.

    None of the names exists; results are ignored.
    """

    def resolve() -> None:
        for name in names:
            with suppress(OSError):
                socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)

    thread = threading.Thread(target=resolve, daemon=True)  # getaddrinfo cannot be interrupted
    thread.start()
    thread.join(LOOKUP_TIMEOUT)
    return not thread.is_alive()


class Watch:
    """
    A packet capture on every interface.

    Owns: the socket and a thread that reads it.  Ends with ``stop``.

    :raises PermissionError: without CAP_NET_RAW.
    :raises OSError: where there are no packet sockets.
    """

    def __init__(self, ports: frozenset[int]) -> None:
        if not hasattr(socket, "AF_PACKET"):
            raise OSError("packets can be watched on Linux only")
        self._queries: list[tuple[Server, bool, bytes]] = []
        self._is_over = threading.Event()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        _attach(self._socket, filter_for(sorted(ports)))
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> list[tuple[Server, bool, bytes]]:
        """
        End the capture; return each query's destination, whether it left the machine, and its octets.
        """
        time.sleep(LINGER)
        self._is_over.set()
        self._thread.join()
        self._socket.close()
        return self._queries

    def _read(self) -> None:
        while not self._is_over.is_set():
            with suppress(TimeoutError):
                packet, (interface, protocol, kind, *_) = self._socket.recvfrom(_LONGEST)
                if kind != socket.PACKET_OUTGOING or len(self._queries) >= _KEPT_PACKETS:
                    continue
                if found := destination(protocol, packet):
                    self._queries.append((found, interface != "lo", packet[:_KEPT_OCTETS]))


def destination(protocol: int, packet: bytes) -> Server | None:
    """
    Return the destination of a packet; ``protocol`` is its EtherType.  None unless it is UDP or TCP with data.
    """
    if protocol == _IPV4 and len(packet) > 20:
        kind, start, host = packet[9], (packet[0] & 15) * 4, socket.inet_ntop(socket.AF_INET, packet[16:20])
    elif protocol == _IPV6 and len(packet) > 40:
        kind, start, host = packet[6], 40, socket.inet_ntop(socket.AF_INET6, packet[24:40])
    else:
        return None
    if kind == socket.IPPROTO_UDP and len(packet) > start + 8:
        return Server(host, int.from_bytes(packet[start + 2 : start + 4], "big"))
    if kind == socket.IPPROTO_TCP and len(packet) > start + 20:
        end = start + (packet[start + 12] >> 4) * 4
        if len(packet) > end:
            return Server(host, int.from_bytes(packet[start + 2 : start + 4], "big"))
    return None


def judge(names: Sequence[str], queries: Sequence[tuple[Server, bool, bytes]], listening: Listening) -> Evidence:
    """
    Return where the queries for ``names`` went, and how many other queries there were.
    """
    arrived: set[bytes] = set()
    left: set[Server] = set()
    others: Counter[Server] = Counter()
    labels = [_label(name) for name in names]
    for server, has_left, packet in queries:
        found = {label for label in labels if label in packet}
        if listening.includes(server):
            arrived |= found
        elif not has_left or server.port != _PORT:
            continue
        elif found:
            left.add(server)
        else:
            others[server] += 1
    return Evidence(len(names), at_dotproxy=len(arrived), left=frozenset(left), others=dict(others))


def filter_for(ports: Sequence[int]) -> bytes:
    """
    Return the kernel's filter for packets to ``ports``, as an array of ``struct sock_filter``.  It sees the IP header.
    """
    count = len(ports)
    to_accept = [_INSTRUCTION.pack(_JUMP_IF_EQUAL, count - index, 0, port) for index, port in enumerate(ports)]
    checked = b"".join(to_accept) + _INSTRUCTION.pack(_RETURN, 0, 0, 0) + _INSTRUCTION.pack(_RETURN, 0, 0, _LONGEST)
    return (
        _INSTRUCTION.pack(_LD_B, 0, 0, 0)
        + _INSTRUCTION.pack(_AND, 0, 0, 0xF0)
        + _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 4 + count, 0x40)
        + _INSTRUCTION.pack(_LDX_HEADER, 0, 0, 0)
        + _INSTRUCTION.pack(_LD_H_INDEXED, 0, 0, 2)
        + checked
        + _INSTRUCTION.pack(_JUMP_IF_EQUAL, 1, 0, 0x60)
        + _INSTRUCTION.pack(_RETURN, 0, 0, 0)
        + _INSTRUCTION.pack(_LD_H, 0, 0, 42)
        + checked
    )


def _attach(watched: socket.socket, instructions: bytes) -> None:
    kept = array("B", instructions)
    address, size = kept.buffer_info()
    watched.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", size // _INSTRUCTION.size, address))


def _label(name: str) -> bytes:
    label = name.partition(".")[0].encode()
    return bytes((len(label),)) + label
