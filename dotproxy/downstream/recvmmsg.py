"""
Many datagrams with one system call: recvmmsg(2) and sendmmsg(2) through cffi.

Decides where octets, addresses and control data are in memory that is allocated once: each of 64 slots has a message
header, a buffer, a socket address, and control data for the destination of a datagram (IP_PKTINFO).  Refuses to know
what datagrams contain.  For Linux on 64 bits only, whose structures these are (<bits/types/struct_msghdr.h>).

Work on all slots at once, by slices and joins, costs a tenth of the same work slot by slot.
"""

from __future__ import annotations

import errno
import mmap
import socket
import struct
import sys
from array import array
from itertools import accumulate
from typing import Any, NamedTuple, cast

from dotproxy.policy.client import Client, ClientMessage

#: The number of slots, and the octets of a received datagram that one holds: no query is longer.
SLOTS = 64
SLOT_SIZE = 4096

#: Words of 8 octets in a struct mmsghdr: name, namelen, iov, iovlen, control, controllen, flags, len.
_WORDS = 8


class _AddressSizes(NamedTuple):
    """
    Octets of a socket address, and of the control data with a datagram's destination.
    """

    name: int
    control: int


#: struct sockaddr_in and sockaddr_in6; struct in_pktinfo (12 octets) and in6_pktinfo (20 octets).
_IPV4 = _AddressSizes(16, socket.CMSG_SPACE(12))
_IPV6 = _AddressSizes(28, socket.CMSG_SPACE(20))

#: struct cmsghdr: length, level, type.
_CMSGHDR = struct.Struct("=QII")

#: Up to this many datagrams are sent faster one by one than with sendmmsg.
_FEW = 12

#: Clients kept, so that their addresses need not be converted for each datagram.
_MAX_CLIENTS = 8192


class NotSupported(Exception):
    """
    This system has no recvmmsg and sendmmsg, or does not permit them.
    """


class _SystemCalls(NamedTuple):
    """
    The system calls as cffi functions; cffi has no types.
    """

    ffi: Any
    recvmmsg: Any
    sendmmsg: Any


def _system_calls() -> _SystemCalls:
    """
    Return the system calls.

    :raises NotSupported: if the system or a sandbox does not have them.
    """
    if sys.platform != "linux" or struct.calcsize("P") != 8 or sys.byteorder != "little":
        raise NotSupported
    try:
        from dotproxy.downstream.recvmmsg_abi import ffi

        library = ffi.dlopen(None)
        receive, send = library.recvmmsg, library.sendmmsg
    except (ImportError, AttributeError, OSError):
        raise NotSupported from None
    # Called without a socket: EBADF unless the kernel or a sandbox forbids the call.
    for call, arguments in ((receive, (-1, ffi.NULL, 0, 0, ffi.NULL)), (send, (-1, ffi.NULL, 0, 0))):
        if call(*arguments) < 0 and ffi.errno != errno.EBADF:
            raise NotSupported
    return _SystemCalls(ffi, receive, send)


class DatagramSlots:
    """
    The slots of one socket, for received and for sent datagrams.

    With ``with_control`` datagrams have control data: the socket has a wildcard address and IP_PKTINFO is set.

    :raises NotSupported: if the system does not support it.
    """

    def __init__(self, bound: socket.socket, *, with_control: bool) -> None:
        ffi, self._recvmmsg, self._sendmmsg = _system_calls()
        self._ffi = ffi
        self._socket = bound
        self._descriptor = bound.fileno()
        is_v6 = bound.family == socket.AF_INET6
        sizes = _IPV6 if is_v6 else _IPV4
        self._name_size = sizes.name
        self._control_size = sizes.control if with_control else 0
        self._clients = _ClientCache(self._name_size)
        self._in = _MessageHeaders(ffi, self._name_size, self._control_size)
        self._out = _MessageHeaders(ffi, self._name_size, self._control_size)
        self._outgoing: Any = None
        self._memory = mmap.mmap(-1, SLOTS * SLOT_SIZE)
        self._pinned = ffi.from_buffer(self._memory)
        start = int(ffi.cast("uintptr_t", self._pinned))
        for slot in range(SLOTS):
            self._in.vectors[2 * slot : 2 * slot + 2] = array("Q", (start + slot * SLOT_SIZE, SLOT_SIZE))

    def receive(self) -> list[ClientMessage]:
        """
        Return the datagrams that were received, at most ``SLOTS``.

        :raises OSError: the kernel's error; ``BlockingIOError`` if no datagram was received.
        """
        slots = self._in
        count: int = self._recvmmsg(self._descriptor, slots.headers, SLOTS, socket.MSG_DONTWAIT, self._ffi.NULL)
        if count < 0:
            number = self._ffi.errno
            raise BlockingIOError if number == errno.EAGAIN else OSError(number, "recvmmsg")
        names = slots.names[: count * self._name_size]
        if count == 1:
            address = names + slots.controls[: slots.control_sizes[0]]
            received = [(self._memory[: slots.sizes[0]], self._clients[address])]
        elif self._control_size:
            received = self._received_with_control(names, count)
        else:
            received = self._received(names, count)
        if self._control_size:
            slots.control_sizes[:count] = slots.all_room[:count]
        return received

    def _received(self, names: bytes, count: int) -> list[ClientMessage]:
        """
        Return the datagrams in the first ``count`` slots, whose socket addresses are ``names``.
        """
        memory, clients, size = self._memory, self._clients, self._name_size
        return [
            (memory[start : start + length], clients[names[at : at + size]])
            for start, length, at in zip(
                range(0, SLOTS * SLOT_SIZE, SLOT_SIZE),
                self._in.sizes[:count].tolist(),
                range(0, SLOTS * size, size),
                strict=False,
            )
        ]

    def _received_with_control(self, names: bytes, count: int) -> list[ClientMessage]:
        """
        As ``_received``, for datagrams with control data.
        """
        slots, memory, clients, size, room = self._in, self._memory, self._clients, self._name_size, self._control_size
        return [
            (
                memory[start : start + length],
                clients[names[at : at + size] + slots.controls[control_at : control_at + control_size]],
            )
            for start, length, at, control_at, control_size in zip(
                range(0, SLOTS * SLOT_SIZE, SLOT_SIZE),
                slots.sizes[:count].tolist(),
                range(0, SLOTS * size, size),
                range(0, SLOTS * room, room),
                slots.control_sizes[:count].tolist(),
                strict=False,
            )
        ]

    def send(self, batch: list[ClientMessage]) -> int:
        """
        Send datagrams; return how many could not be sent.
        """
        if len(batch) <= _FEW:
            return self._send_one_by_one(batch)
        if len(batch) <= SLOTS:
            return self._send_some(batch)
        return sum(self._send_some(batch[start : start + SLOTS]) for start in range(0, len(batch), SLOTS))

    def _send_one_by_one(self, batch: list[ClientMessage]) -> int:
        lost = 0
        for octets, client in batch:
            try:
                if self._control_size:
                    control = cast(bytes, client.route)[self._name_size :]
                    self._socket.sendmsg([octets], _ancillary(control), 0, (client.host, client.port))
                else:
                    self._socket.sendto(octets, (client.host, client.port))
            except OSError:
                lost += 1
        return lost

    def _send_some(self, batch: list[ClientMessage]) -> int:
        slots, count = self._out, len(batch)
        sizes = array("Q", [len(octets) for octets, _ in batch])
        joined = b"".join([octets for octets, _ in batch])
        # An attribute and not a local name, which a compiler may free after its last use.
        self._outgoing = self._ffi.from_buffer(joined)
        start = int(self._ffi.cast("uintptr_t", self._outgoing))
        slots.bases[:count] = array("Q", accumulate(sizes[:-1], initial=start))
        slots.lengths[:count] = sizes
        self._place_addresses(cast(list[bytes], [client.route for _, client in batch]))
        sent = lost = 0
        while sent < count:
            done: int = self._sendmmsg(
                self._descriptor, slots.headers + sent * _WORDS, count - sent, socket.MSG_DONTWAIT
            )
            if done < 0:  # the error of the first datagram, which is lost; the others are sent
                done = 1
                lost += 1
            sent += done
        return lost

    def _place_addresses(self, routes: list[bytes]) -> None:
        """
        Write socket addresses, and control data if there is any, into the slots of sent datagrams.
        """
        slots, count, size = self._out, len(routes), self._name_size
        if not self._control_size:
            slots.names[: count * size] = b"".join(routes)
            return
        slots.names[: count * size] = b"".join([route[:size] for route in routes])
        room = self._control_size
        controls = [route[size:] for route in routes]
        slots.control_sizes[:count] = array("Q", map(len, controls))
        joined = b"".join(controls)
        if len(joined) < count * room:
            joined = b"".join([control.ljust(room, b"\0") for control in controls])
        slots.controls[: count * room] = joined


class _ClientCache(dict[bytes, Client]):
    """
    Clients by socket address and control data, as the kernel has them; these octets are the client's route, too.
    """

    def __init__(self, name_size: int) -> None:
        super().__init__()
        self._name_size = name_size

    def __missing__(self, key: bytes) -> Client:
        if len(self) >= _MAX_CLIENTS:
            self.clear()
        port = int.from_bytes(key[2:4], "big")
        if self._name_size == _IPV4.name:
            host = socket.inet_ntop(socket.AF_INET, key[4:8])
        else:
            host = socket.inet_ntop(socket.AF_INET6, key[8:24])
            scope = int.from_bytes(key[24:28], "little")
            host = f"{host}%{scope}" if scope else host
        client = self[key] = Client(host, port, key)
        return client


def _ancillary(control: bytes) -> list[tuple[int, int, bytes]]:
    """
    Return the kernel's control data as ``socket.sendmsg`` takes it.
    """
    if not control:
        return []
    length, level, kind = _CMSGHDR.unpack_from(control)
    return [(level, kind, control[_CMSGHDR.size : length])]


class _MessageHeaders:
    """
    The message headers of one direction, and views of their fields over all slots.

    ``words`` are the headers in words of 8 octets.  ``vectors`` are the iovecs of the buffers, ``bases`` and
    ``lengths`` their two fields; ``sizes`` are the received octets, ``control_sizes`` those of control data.
    ``names`` and ``controls`` are the memory of socket addresses and control data.
    """

    def __init__(self, ffi: Any, name_size: int, control_size: int) -> None:
        self.headers = ffi.new("uint64_t[]", SLOTS * _WORDS)
        words = memoryview(ffi.buffer(self.headers)).cast("B")
        self._vectors = ffi.new("uint64_t[]", SLOTS * 2)
        self.names = mmap.mmap(-1, SLOTS * name_size)
        self.controls = mmap.mmap(-1, SLOTS * max(control_size, 1))
        self._pinned = ffi.from_buffer(self.names), ffi.from_buffer(self.controls)
        self.words = words.cast("Q")
        self.vectors = memoryview(ffi.buffer(self._vectors)).cast("B").cast("Q")
        self.bases, self.lengths = self.vectors[::2], self.vectors[1::2]
        self.sizes = words.cast("I")[14::16]
        self.control_sizes = self.words[5::_WORDS]
        self.all_room = array("Q", [control_size] * SLOTS)
        names, controls = (int(ffi.cast("uintptr_t", memory)) for memory in self._pinned)
        vectors = int(ffi.cast("uintptr_t", self._vectors))
        for slot in range(SLOTS):
            header = (
                *(names + slot * name_size, name_size, vectors + slot * 16, 1),
                *(controls + slot * control_size, control_size, 0, 0),
            )
            self.words[slot * _WORDS : (slot + 1) * _WORDS] = array("Q", header)
