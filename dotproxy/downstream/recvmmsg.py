"""
Many datagrams with one system call: recvmmsg and sendmmsg, by way of cffi.

Decides where octets, addresses and control data lie in memory that is made once: for each of so many slots a message
header, a buffer, a socket address, and room for what says where a datagram came to.  Refuses to know what it carries.
Only for Linux on 64 bits, whose structures these are (recvmmsg(2), <bits/types/struct_msghdr.h>).

What is done for all slots together, as slices and joins, costs a tenth of what it does slot by slot.
"""

from __future__ import annotations

import errno
import mmap
import socket
import struct
import sys
from array import array
from itertools import accumulate
from typing import Any, cast

from dotproxy.policy.client import Client, ClientMessage

#: Slots, and octets a datagram that comes may have in one: no query is longer.
SLOTS = 64
SLOT_SIZE = 4096

#: struct mmsghdr in words of 8 octets: name, namelen, iov, iovlen, control, controllen, flags, len.
_WORDS = 8

#: Octets of a socket address, and of the control data that says where a datagram came to (struct in_pktinfo, 12
#: octets, struct in6_pktinfo, 20).
_V4, _V6 = (16, socket.CMSG_SPACE(12)), (28, socket.CMSG_SPACE(20))

#: The head of control data: struct cmsghdr.
_CONTROL = struct.Struct("=QII")

#: So many are sent sooner one by one than together.
_FEW = 12

#: So many clients are remembered, that their addresses need not be written out each time.
_REMEMBERED = 8192


class NotSupported(Exception):
    """
    This system does not do it.
    """


def _system_calls() -> tuple[Any, Any, Any]:
    if sys.platform != "linux" or struct.calcsize("P") != 8 or sys.byteorder != "little":
        raise NotSupported
    try:
        from dotproxy.downstream.recvmmsg_abi import ffi

        library = ffi.dlopen(None)
        receive, send = library.recvmmsg, library.sendmmsg
    except (ImportError, AttributeError, OSError):
        raise NotSupported from None
    # On no socket: a kernel or a sandbox that does not let us says so now.
    for call, given in ((receive, (-1, ffi.NULL, 0, 0, ffi.NULL)), (send, (-1, ffi.NULL, 0, 0))):
        if call(*given) < 0 and ffi.errno != errno.EBADF:
            raise NotSupported
    return ffi, receive, send


class DatagramSlots:
    """
    The slots of one socket, for datagrams that come and for such that go.

    ``with_control``: its datagrams bear control data, as those of a socket on a wildcard address do that was told so.

    :raises NotSupported: if there can be none.
    """

    def __init__(self, bound: socket.socket, *, with_control: bool) -> None:
        ffi, self._recvmmsg, self._sendmmsg = _system_calls()
        self._ffi = ffi
        self._socket = bound
        self._descriptor = bound.fileno()
        is_v6 = bound.family == socket.AF_INET6
        self._name_size, control_size = _V6 if is_v6 else _V4
        self._control_size = control_size if with_control else 0
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
        Return what has come, as much of it as there are slots.

        :raises OSError: as the kernel says; ``BlockingIOError`` if nothing has come.
        """
        slots, memory, clients = self._in, self._memory, self._clients
        count: int = self._recvmmsg(self._descriptor, slots.headers, SLOTS, socket.MSG_DONTWAIT, self._ffi.NULL)
        if count < 0:
            number = self._ffi.errno
            raise BlockingIOError if number == errno.EAGAIN else OSError(number, "recvmmsg")
        size = self._name_size
        names = slots.names[: count * size]
        if count == 1:
            who = names + slots.controls[: slots.words[5]]
            received = [(memory[: slots.sizes[0]], clients[who])]
        elif self._control_size:
            room = self._control_size
            received = [
                (memory[start : start + length], clients[names[at : at + size] + slots.controls[there : there + given]])
                for start, length, at, there, given in zip(
                    range(0, SLOTS * SLOT_SIZE, SLOT_SIZE),
                    slots.sizes[:count].tolist(),
                    range(0, SLOTS * size, size),
                    range(0, SLOTS * room, room),
                    slots.control_sizes[:count].tolist(),
                    strict=False,
                )
            ]
        else:
            received = [
                (memory[start : start + length], clients[names[at : at + size]])
                for start, length, at in zip(
                    range(0, SLOTS * SLOT_SIZE, SLOT_SIZE),
                    slots.sizes[:count].tolist(),
                    range(0, SLOTS * size, size),
                    strict=False,
                )
            ]
        if self._control_size:
            slots.control_sizes[:count] = slots.all_room[:count]
        return received

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
        # Held by more than a local name: a compiler may drop that as soon as it is not named any more.
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
            if done < 0:  # that is about the first of them, which is lost; the others are not
                done = 1
                lost += 1
            sent += done
        return lost

    def _place_addresses(self, routes: list[bytes]) -> None:
        """
        Put the addresses, and control data if there is any, into the slots of what goes.
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
    From addresses and control data, as the kernel has them, to clients; remembers those of late.

    The octets that a client is found by are its route, too.
    """

    def __init__(self, name_size: int) -> None:
        super().__init__()
        self._name_size = name_size

    def __missing__(self, key: bytes) -> Client:
        if len(self) >= _REMEMBERED:
            self.clear()
        port = key[2] << 8 | key[3]
        if self._name_size == _V4[0]:
            host = socket.inet_ntop(socket.AF_INET, key[4:8])
        else:
            host = socket.inet_ntop(socket.AF_INET6, key[8:24])
            scope = int.from_bytes(key[24:28], "little")
            host = f"{host}%{scope}" if scope else host
        client = self[key] = Client(host, port, key)
        return client


def _ancillary(control: bytes) -> list[tuple[int, int, bytes]]:
    """
    Return control data as Python has it, from how the kernel has it.
    """
    if not control:
        return []
    length, level, kind = _CONTROL.unpack_from(control)
    return [(level, kind, control[_CONTROL.size : length])]


class _MessageHeaders:
    """
    Message headers in one direction, and views of what is in them, slot by slot.

    ``words`` are the headers in words of 8 octets; ``vectors`` the places and lengths of the buffers, ``bases`` and
    ``lengths`` each of the two; ``sizes`` what came in them.  ``names`` and ``controls`` are octets.
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
