"""
Datagrams in slots of memory: many with one system call, on loopback.
"""

import socket
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.recvmmsg import SLOT_SIZE, SLOTS, DatagramSlots, NotSupported
from dotproxy.policy.client import Client


class SlotTests(SynchronousTestCase):
    """
    A server's socket with slots, and clients.
    """

    def bind(self, family: socket.AddressFamily = socket.AF_INET, *, wildcard: bool = False) -> DatagramSlots:
        server = socket.socket(family, socket.SOCK_DGRAM)
        self.addCleanup(server.close)
        self.host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        if wildcard:
            if family == socket.AF_INET:
                server.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
            else:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        server.bind((("::" if family == socket.AF_INET6 else "0.0.0.0") if wildcard else self.host, 0))
        self.port = server.getsockname()[1]
        self.family = family
        try:
            return DatagramSlots(server, with_control=wildcard)
        except NotSupported:
            raise SkipTest("no recvmmsg here") from None

    def client(self) -> socket.socket:
        client = socket.socket(self.family, socket.SOCK_DGRAM)
        self.addCleanup(client.close)
        client.settimeout(5)
        client.connect((self.host, self.port))
        return client

    def test_empty_socket_is_a_blocking_error(self) -> None:
        """
        That is an error, which says so.
        """
        self.assertRaises(BlockingIOError, self.bind().receive)

    def test_each_datagram_has_its_clients_address(self) -> None:
        """
        Each datagram with its client's address, whatever is received with it, of both families, with control data too.
        """
        for family in (socket.AF_INET, socket.AF_INET6):
            for wildcard in (False, True):
                slots = self.bind(family, wildcard=wildcard)
                clients = [self.client() for _ in range(14)]
                for count in (1, 2, 14):
                    for number, client in enumerate(clients[:count]):
                        client.send(b"%d" % number + b"x" * 100 * number)
                    received = slots.receive()
                    self.assertEqual(
                        [b"%d" % n + b"x" * 100 * n for n in range(count)], [octets for octets, _ in received]
                    )
                    self.assertEqual(
                        [client.getsockname()[:2] for client in clients[:count]],
                        [(client.host, client.port) for _, client in received],
                    )
                    replies: list[Any] = [(octets.upper(), client) for octets, client in received]
                    self.assertEqual(0, slots.send(replies))
                    for (octets, _), client in zip(replies, clients, strict=False):
                        self.assertEqual(octets, client.recv(65535))

    def test_batch_has_64_datagrams(self) -> None:
        """
        The rest is received the next time; as many are sent at once, and more one batch after the other.
        """
        slots = self.bind()
        client = self.client()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for number in range(SLOTS + 1):
            client.send(b"%d" % number)
        first, second = slots.receive(), slots.receive()
        self.assertEqual((64, 1), (len(first), len(second)))
        self.assertEqual(b"64", second[0][0])
        who = second[0][1]
        for count in (12, 13, SLOTS, SLOTS + 1, 2 * SLOTS + 5):
            self.assertEqual(0, slots.send([(b"%d" % number, who) for number in range(count)]))
            self.assertEqual([b"%d" % number for number in range(count)], [client.recv(100) for _ in range(count)])

    def test_datagram_over_4096_octets_is_cut(self) -> None:
        """
        The rest of a longer datagram is lost, and nothing of the next one.
        """
        slots = self.bind()
        client = self.client()
        client.send(b"a" * SLOT_SIZE)
        client.send(b"b" * (SLOT_SIZE + 1))
        client.send(b"c")
        self.assertEqual([b"a" * 4096, b"b" * 4096, b"c"], [octets for octets, _ in slots.receive()])

    def test_the_rest_of_a_batch_is_sent_after_an_error(self) -> None:
        """
        Each system call is given the datagrams that are left, and no more.
        """
        slots = self.bind()
        client = self.client()
        client.send(b"q")
        ((_, who),) = slots.receive()
        calls: list[int] = []
        sendmmsg: Any = slots._sendmmsg

        def counted(descriptor: int, headers: Any, count: int, flags: int) -> int:
            calls.append(count)
            return int(sendmmsg(descriptor, headers, count, flags))

        slots._sendmmsg = counted
        batch = [(b"%d" % number, who) for number in range(20)]
        batch[5] = (bytes(70_000), who)
        self.assertEqual(1, slots.send(batch))
        self.assertEqual([20, 15, 14], calls)

    def test_control_data_of_one_client_is_not_used_for_another(self) -> None:
        """
        A response without control data beside one with it: each leaves from the address its query came to.
        """
        slots = self.bind(wildcard=True)
        clients = [self.client() for _ in range(14)]
        for client in clients:
            client.send(b"q")
        received = slots.receive()
        size = slots._name_size
        replies: list[Any] = [
            (b"%d" % number, client if number % 2 else Client(client.host, client.port, client.route[:size]))
            for number, (_, client) in enumerate(received)
        ]
        self.assertEqual(0, slots.send(replies))
        self.assertEqual([b"%d" % number for number in range(14)], [client.recv(100) for client in clients])

    def test_failed_send_loses_one_datagram_and_is_counted(self) -> None:
        """
        One too long for UDP, among few and among many; the number lost is returned.
        """
        slots = self.bind()
        client = self.client()
        client.send(b"q")
        ((_, who),) = slots.receive()
        for count in (3, 20):
            batch = [(b"%d" % number, who) for number in range(count)]
            batch[1] = batch[-1] = (bytes(70_000), who)
            self.assertEqual(2, slots.send(batch))
            expected = [b"%d" % number for number in range(count) if number not in (1, count - 1)]
            self.assertEqual(expected, [client.recv(100) for _ in expected])
