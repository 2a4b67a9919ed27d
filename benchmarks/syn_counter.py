"""
A port of 127.0.0.1 that refuses connections, and counts how often it was tried.

Decides what a dial is: an IPv4 packet to the port with SYN and without ACK.  The kernel answers such a packet with a
reset where a socket is bound and does not listen, and gives a copy of it to a packet socket, whose filter lets nothing
else pass; that needs root.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time

from benchmarks.open_loop import SO_TIMESTAMPNS, received_at

#: From linux/filter.h and asm-generic/socket.h; Python has no names for them.
_BPF_LDB_ABS, _BPF_LDB_IND, _BPF_LDH_IND, _BPF_LDX_IP_HEADER = 0x30, 0x50, 0x48, 0xB1
_BPF_JEQ, _BPF_AND, _BPF_RET = 0x15, 0x54, 0x06
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33

_ETH_P_IP = 0x0800
_TCP, _SYN, _SYN_OR_ACK = 6, 0x02, 0x12
_PROTOCOL_AT, _DESTINATION_PORT_AT, _TCP_FLAGS_AT = 9, 2, 13


def _filter(port: int) -> list[tuple[int, int, int, int]]:
    """
    The filter: operation, jump if true, jump if false, operand; it begins at the IP header.
    """
    return [
        (_BPF_LDB_ABS, 0, 0, _PROTOCOL_AT),
        (_BPF_JEQ, 0, 7, _TCP),
        (_BPF_LDX_IP_HEADER, 0, 0, 0),
        (_BPF_LDH_IND, 0, 0, _DESTINATION_PORT_AT),
        (_BPF_JEQ, 0, 4, port),
        (_BPF_LDB_IND, 0, 0, _TCP_FLAGS_AT),
        (_BPF_AND, 0, 0, _SYN_OR_ACK),
        (_BPF_JEQ, 0, 1, _SYN),
        (_BPF_RET, 0, 0, 64),
        (_BPF_RET, 0, 0, 0),
    ]


class Closed:
    """
    The port.  Ends when ``close`` is called.
    """

    def __init__(self) -> None:
        self._bound = socket.socket()
        self._bound.bind(("127.0.0.1", 0))
        self.port: int = self._bound.getsockname()[1]
        self._dials: list[float] = []
        self._packets: socket.socket | None = None
        try:
            self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except PermissionError:
            return
        program = b"".join(struct.pack("HBBI", *step) for step in _filter(self.port))
        held = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("HL", len(program) // 8, ctypes.addressof(held))
        self._packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        self._packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        self._packets.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._packets.setblocking(False)
        self._packets.bind(("lo", _ETH_P_IP))

    def dials(self) -> list[float] | None:
        """
        When it was dialled so far, in seconds of CLOCK_MONOTONIC; None without permission.
        """
        if self._packets is None:
            return None
        ahead = time.time_ns() - time.monotonic_ns()
        while True:
            try:
                _, ancillary, _, address = self._packets.recvmsg(64, 64)
            except BlockingIOError:
                return list(self._dials)
            if address[2] == socket.PACKET_HOST:  # the loopback interface shows a packet as it leaves, too
                self._dials.append((received_at(ancillary) - ahead) / 1e9)

    def close(self) -> None:
        """
        Give the port back.
        """
        self._bound.close()
        if self._packets is not None:
            self._packets.close()
