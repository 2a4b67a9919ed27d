"""
UDP ports that read and write datagrams in batches.

Decides how datagrams are read from and written to a socket.  The ports differ from Twisted's own:

* an error from the kernel (ENOMEM, ENETDOWN, …) costs one datagram; Twisted closes the port;
* one iteration of the reactor reads a bounded number of datagrams; Twisted bounds octets, so that a flood of empty
  datagrams starves everything else;
* datagrams that waited for longer than a client waits are dropped (``receive_queue``), so that a flood has no effect
  after its end;
* on a wildcard address, on Linux, a response is sent from the address its query was sent to (RFC 2181 §4).

``UdpPort`` works on any system; ``RecvmmsgPort`` reads and writes up to 64 datagrams with one system call (Linux).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

from twisted.internet import udp
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger

from dotproxy.downstream.receive_queue import ReceiveQueue
from dotproxy.downstream.recvmmsg import SLOTS, DatagramSlots, NotSupported
from dotproxy.downstream.sockets import drop_count
from dotproxy.policy.client import Client, ClientMessage

log = Logger("dotproxy")

#: Datagrams read in one iteration of the reactor, and handed on together.
BATCH = 64

#: Batches of old datagrams dropped in one iteration of the reactor, which takes less than a millisecond.
_DROPPED_BATCHES = 16

#: Octets read of a datagram; no query is longer, and a longer datagram is cut and then rejected.
MAX_DATAGRAM = 4096

#: In <linux/in.h>; the socket module has it from Python 3.13 on.
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_ANCILLARY = socket.CMSG_SPACE(64)

#: A datagram and its client; the client's ``route`` is used by the port alone.
Datagram = ClientMessage


class SocketAddress(NamedTuple):
    """
    The route of a client: the socket address of a datagram and, on a wildcard address, the ancillary data with the
    datagram's destination (IP_PKTINFO).
    """

    address: tuple[str | int, ...]
    ancillary: Sequence[tuple[int, int, bytes]] = ()


class DatagramReceiver(Protocol):
    """
    The receiver of what a port reads.
    """

    def datagrams_received(self, batch: list[Datagram]) -> None:
        """
        Take datagrams, in the order they were received.
        """

    def datagrams_dropped(self, count: int) -> None:
        """
        Take note of datagrams that were dropped because they had waited too long.
        """


class UdpPort(udp.Port):
    """
    A port on a bound, non-blocking socket; it reads and writes datagrams one by one.
    """

    #: How datagrams are read and written, for the log.
    io_mode = "one by one"

    _preexistingSocket: socket.socket  # type: ignore[assignment]  # Twisted declares None

    def __init__(self, bound: socket.socket, proto: DatagramReceiver, reactor: IReactorFDSet) -> None:
        host, port, *_ = bound.getsockname()
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
        The time that the last datagram of the last batch had waited in the receive buffer, in seconds; 0.0 if the batch
        was not full, and on systems that do not tell.
        """
        return self._queue.delay

    @property
    def drops(self) -> int:
        """
        The number of datagrams that the kernel dropped because the receive buffer was full; 0 where it does not tell.
        """
        return drop_count(self.socket) if self.socket is not None else 0

    def doRead(self) -> None:
        """
        Read at most one batch and hand it on; drop batches before it that are too old.
        """
        batch = self._read_fresh_batch()
        if not batch:
            return
        try:
            self.protocol.datagrams_received(batch)
        except Exception:
            # The reactor would close the port.
            log.failure("defect while handling {count} datagrams", count=len(batch))

    def _read_fresh_batch(self) -> list[Datagram]:
        """
        Return the first batch that is not too old; [] if there is none among ``_DROPPED_BATCHES``.
        """
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
        Send datagrams; count those that cannot be sent in ``errors``.
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
        host, port, *_ = address
        return octets, Client(host, port, SocketAddress(address))

    def _send(self, octets: bytes, client: Client) -> None:
        route = cast(SocketAddress, client.route)
        self.socket.sendto(octets, route.address)

    def _receive_with_destination(self, size: int) -> Datagram:
        octets, ancillary, _, address = self.socket.recvmsg(size, _ANCILLARY)
        host, port, *_ = address
        return octets, Client(host, port, SocketAddress(address, ancillary))

    def _send_from_destination(self, octets: bytes, client: Client) -> None:
        route = cast(SocketAddress, client.route)
        self.socket.sendmsg([octets], route.ancillary, 0, route.address)


class RecvmmsgPort(UdpPort):
    """
    A port that reads and writes a batch with one system call.

    :raises NotSupported: on systems without recvmmsg and sendmmsg.
    """

    io_mode = f"up to {SLOTS} at once"

    def __init__(self, bound: socket.socket, proto: DatagramReceiver, reactor: IReactorFDSet) -> None:
        super().__init__(bound, proto, reactor)
        self._slots = DatagramSlots(bound, with_control=self._is_wildcard)

    def write_batch(self, batch: list[Datagram]) -> None:
        """
        Send datagrams; count those that cannot be sent in ``errors``.
        """
        if self.socket is not None:
            self.errors += self._slots.send(batch)

    def _read_batch(self) -> list[Datagram]:
        try:
            return self._slots.receive()
        except BlockingIOError:
            pass
        except OSError:
            self.errors += 1
        return []


def make_port(
    bound: socket.socket, proto: DatagramReceiver, reactor: IReactorFDSet, *, batched: bool = True
) -> UdpPort:
    """
    Return a ``RecvmmsgPort`` if this system supports it and ``batched`` is set, else a ``UdpPort``.
    """
    if not batched:
        return UdpPort(bound, proto, reactor)
    try:
        return RecvmmsgPort(bound, proto, reactor)
    except NotSupported:
        return UdpPort(bound, proto, reactor)
