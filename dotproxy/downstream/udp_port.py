"""
A UDP port that reads and writes in batches, and does not give up.

Decides how datagrams get in and out of a socket.  Differs from Twisted's own port, whose fragility would
be felt by every client:

* an error from the kernel (ENOMEM, ENETDOWN, …) is one lost datagram, not the end of the port;
* what is read in one turn of the reactor is bounded in datagrams, so that empty ones, which cost nothing
  to send, cannot starve everything else;
* what has waited for longer than its client does is dropped (``receive_queue``), so that a flood is over when it ends;
* on a wildcard address, on Linux, an answer leaves from the address its question came to (RFC 2181 §4).

There are two of them: one that any system has, and one that takes and gives many datagrams with one system call.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

from twisted.internet import udp
from twisted.logger import Logger

from dotproxy.downstream.receive_queue import ReceiveQueue
from dotproxy.downstream.recvmmsg import SLOTS, DatagramSlots, NotSupported
from dotproxy.downstream.sockets import drop_count
from dotproxy.policy.client import Client, ClientMessage

log = Logger("dotproxy")

#: Datagrams read in one turn of the reactor, and handed on together.
BATCH = 64

#: Batches that may be dropped in one turn of the reactor, unread: together they take less than a millisecond.
_DROPPED_BATCHES = 16

#: No query is longer, and what is cut off could not be a whole message.
MAX_DATAGRAM = 4096

#: In <linux/in.h>; the socket module has it from Python 3.13 on.
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_ANCILLARY = socket.CMSG_SPACE(64)

#: A datagram and its client, whose ``route`` is the port's own.
Datagram = ClientMessage


class SocketAddress(NamedTuple):
    """
    The socket address a datagram came from and, on a wildcard address, the ancillary data that says where it came to.
    """

    address: tuple[Any, ...]
    ancillary: Sequence[tuple[int, int, bytes]] = ()


class DatagramReceiver(Protocol):
    """
    Who is given what was read.
    """

    def datagrams_received(self, batch: list[Datagram]) -> None:
        """
        These came, in this order.
        """

    def datagrams_dropped(self, count: int) -> None:
        """
        So many came that nobody waits for any more, and were dropped.
        """


class UdpPort(udp.Port):
    """
    A port on a socket that is bound already, in non-blocking mode; reads and writes datagrams one by one.
    """

    #: How it does that, for the log.
    io_mode = "one by one"

    _preexistingSocket: Any

    def __init__(self, bound: socket.socket, proto: Any, reactor: Any) -> None:
        host, port = bound.getsockname()[:2]
        super().__init__(port, proto, host, MAX_DATAGRAM, reactor)
        self._preexistingSocket = bound
        self._is_wildcard = host in ("0.0.0.0", "::") and sys.platform == "linux"
        if self._is_wildcard and bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        elif self._is_wildcard:
            bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self.errors = 0
        self._queue = ReceiveQueue(bound)

    @property
    def queue_delay(self) -> float:
        """
        How many seconds the last datagram of the last batch had waited in the receive buffer; 0.0 if the batch was not
        full, and where the system does not say.
        """
        return self._queue.delay

    @property
    def drops(self) -> int:
        """
        How many datagrams the kernel has thrown away, because there was no room for them; 0 where it does not say.
        """
        return drop_count(self.socket) if self.socket is not None else 0

    def doRead(self) -> None:
        """
        Read what there is, at most a batch, and hand it on; drop batches before it that are too old.
        """
        batch = self._read_fresh_batch()
        if not batch:
            return
        try:
            self.protocol.datagrams_received(batch)
        except Exception:
            # The reactor would take the port for broken, and close it.
            log.failure("while handling {count} datagrams", count=len(batch))

    def _read_fresh_batch(self) -> list[Datagram]:
        for _ in range(_DROPPED_BATCHES):
            batch = self._read_batch()
            if len(batch) < BATCH:
                self._queue.was_emptied()
                return batch
            if not self._queue.is_stale():
                return batch
            self.protocol.datagrams_dropped(len(batch))
        return []

    def _read_batch(self) -> list[Datagram]:
        receive = self._receive_with_destination if self._is_wildcard else self._receive
        batch: list[Datagram] = []
        for _ in range(BATCH):
            try:
                datagram = receive(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError:
                self.errors += 1
                break
            batch.append(datagram)
        return batch

    def write_batch(self, batch: list[Datagram]) -> None:
        """
        Send datagrams; one that cannot be sent is lost, as any datagram may be.
        """
        if self.socket is None:
            return
        send = self._send_from_destination if self._is_wildcard else self._send
        for octets, client in batch:
            try:
                send(octets, client)
            except OSError:
                self.errors += 1

    def _receive(self, size: int) -> Datagram:
        octets, address = self.socket.recvfrom(size)
        return octets, Client(address[0], address[1], SocketAddress(address))

    def _send(self, octets: bytes, client: Client) -> None:
        route = cast(SocketAddress, client.route)
        self.socket.sendto(octets, route.address)

    def _receive_with_destination(self, size: int) -> Datagram:
        octets, ancillary, _, address = self.socket.recvmsg(size, _ANCILLARY)
        return octets, Client(address[0], address[1], SocketAddress(address, ancillary))

    def _send_from_destination(self, octets: bytes, client: Client) -> None:
        route = cast(SocketAddress, client.route)
        self.socket.sendmsg([octets], route.ancillary, 0, route.address)


class RecvmmsgPort(UdpPort):
    """
    The same with one system call for a batch, where the system has that.

    :raises NotSupported: where it does not.
    """

    io_mode = f"up to {SLOTS} at once"

    def __init__(self, bound: socket.socket, proto: Any, reactor: Any) -> None:
        super().__init__(bound, proto, reactor)
        self._messages = DatagramSlots(bound, with_control=self._is_wildcard)

    def write_batch(self, batch: list[Datagram]) -> None:
        """
        Send datagrams; one that cannot be sent is lost, as any datagram may be.
        """
        if self.socket is not None:
            self.errors += self._messages.send(batch)

    def _read_batch(self) -> list[Datagram]:
        try:
            return self._messages.receive()
        except BlockingIOError:
            pass
        except OSError:
            self.errors += 1
        return []


def make_port(bound: socket.socket, proto: Any, reactor: Any, *, batched: bool = True) -> UdpPort:
    """
    Return the best port that this system has; one that reads one by one, if it is not to be ``batched``.
    """
    if not batched:
        return UdpPort(bound, proto, reactor)
    try:
        return RecvmmsgPort(bound, proto, reactor)
    except NotSupported:
        return UdpPort(bound, proto, reactor)
