"""
UDP in batches, on real sockets, and from a kernel that fails.
"""

import socket
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.batch import BATCH, BatchPort
from dotproxy.downstream.datagram import DatagramListener
from dotproxy.downstream.sockets import CannotBind, bind_both


class Reactor(Clock):
    """
    A reactor in whose place a test decides when to read.
    """

    def addReader(self, reader: object) -> None:
        """
        Called by the port.
        """

    def removeReader(self, reader: object) -> None:
        """
        Called by the port.
        """

    removeWriter = removeReader


class Echo:
    """
    A factory whose questions are their own answers.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []

    def questions_received(self, listener: Any, batch: list[tuple[bytes, Any]]) -> int:
        """
        Called by the listener.
        """
        self.batches.append(len(batch))
        if any(octets == b"bug" for octets, _ in batch):
            raise ZeroDivisionError
        listener.send_answers([(octets.upper(), client) for octets, client in batch])
        return 0


class FailingSocket:
    """
    A socket whose kernel has had enough.
    """

    def __init__(self, real: socket.socket, error: OSError) -> None:
        self._real = real
        self._error = error
        self.closed = False

    def recvfrom(self, size: int) -> Any:
        """
        Fail once.
        """
        self._fail()
        return self._real.recvfrom(size)

    def sendto(self, *args: Any) -> Any:
        """
        Fail once.
        """
        self._fail()
        return self._real.sendto(*args)

    def _fail(self) -> None:
        error, self._error = self._error, None
        if error:
            raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class BatchPortTests(SynchronousTestCase):
    """
    The port.
    """

    def listen(self, host: str) -> tuple[BatchPort, Echo]:
        """
        A port on a free port of ``host``.
        """
        datagrams, streams = bind_both(host, 0)
        streams.close()
        echo, reactor = Echo(), Reactor()
        port = BatchPort(datagrams, DatagramListener(echo, reactor), reactor)
        port.startListening()
        self.addCleanup(datagrams.close)
        self.number = datagrams.getsockname()[1]
        return port, echo

    def client(self, host: str) -> socket.socket:
        """
        A client that accepts answers only from where it asked.
        """
        client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(5)
        self.addCleanup(client.close)
        client.connect((host, self.number))
        return client

    def test_question_and_answer(self) -> None:
        """
        What a client sends comes in, and what is answered gets back to it.
        """
        for host in ("127.0.0.1", "::1"):
            port, echo = self.listen(host)
            client = self.client(host)
            client.send(b"hello")
            port.doRead()
            self.assertEqual((b"HELLO", [1]), (client.recv(100), echo.batches))

    def test_the_answer_leaves_from_where_the_question_came_to(self) -> None:
        """
        On a wildcard address, too (RFC 2181 §4.1).
        """
        for wildcard, host in (("0.0.0.0", "127.0.0.2"), ("0.0.0.0", "127.9.9.9"), ("::", "::1")):
            port, _ = self.listen(wildcard)
            client = self.client(host)
            client.send(b"hello")
            port.doRead()
            self.assertEqual(b"HELLO", client.recv(100), host)

    def test_ipv6_is_ipv6_only(self) -> None:
        """
        Both wildcard addresses can be listened on at once, on one port.
        """
        self.listen("0.0.0.0")
        for bound in bind_both("::", self.number):
            bound.close()

    def test_no_more_than_a_batch_at_a_time(self) -> None:
        """
        One turn reads a bounded number of datagrams, empty ones included, and hands them on together.
        """
        port, echo = self.listen("127.0.0.1")
        client = self.client("127.0.0.1")
        for n in range(BATCH + 10):
            client.send(b"" if n % 2 else b"x")
        port.doRead()
        self.assertEqual([BATCH], echo.batches)
        port.doRead()
        port.doRead()
        self.assertEqual([BATCH, 10], echo.batches)

    def test_an_error_is_not_the_end(self) -> None:
        """
        Whatever the kernel says, the port stays open and the next question is answered.
        """
        for number in (12, 100, 113, 22):  # ENOMEM, ENETDOWN, EHOSTUNREACH, EINVAL
            port, _ = self.listen("127.0.0.1")
            client = self.client("127.0.0.1")
            client.send(b"one")
            port.socket = FailingSocket(port.socket, OSError(number, "no"))
            port.doRead()
            port.doRead()
            self.assertEqual((b"ONE", 1), (client.recv(100), port.errors))

    def test_an_answer_that_cannot_be_sent_is_lost_alone(self) -> None:
        """
        One failed write does not keep the others from going out.
        """
        port, _ = self.listen("127.0.0.1")
        client = self.client("127.0.0.1")
        port.socket = FailingSocket(port.socket, OSError(11, "try again"))
        port.write_batch([(b"lost", client.getsockname()), (b"found", client.getsockname())])
        self.assertEqual((b"found", 1), (client.recv(100), port.errors))

    def test_a_bug_is_not_the_end(self) -> None:
        """
        An exception while questions are handled is logged, and the port stays.
        """
        port, _ = self.listen("127.0.0.1")
        client = self.client("127.0.0.1")
        client.send(b"bug")
        port.doRead()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        client.send(b"two")
        port.doRead()
        self.assertEqual(b"TWO", client.recv(100))

    def test_answers_after_the_end(self) -> None:
        """
        When the port is closed answers are dropped.
        """
        port, _ = self.listen("127.0.0.1")
        listener = port.protocol
        port.socket = None
        listener.send_answers([(b"late", ("127.0.0.1", 9))])
        listener.transport = None
        listener.send_answers([(b"late", ("127.0.0.1", 9))])

    def test_on_any_other_port(self) -> None:
        """
        On a port that is not ours, datagrams come one by one.
        """
        echo = Echo()
        listener = DatagramListener(echo, None)
        self.assertFalse(listener.is_stream)
        listener.datagramReceived(b"x", ("127.0.0.1", 9))
        self.assertEqual([1], echo.batches)


class BindTests(SynchronousTestCase):
    """
    Sockets.
    """

    def test_both_on_one_port(self) -> None:
        """
        UDP and TCP get the same port, also when any will do, and do not block.
        """
        datagrams, streams = bind_both("127.0.0.1", 0)
        self.addCleanup(datagrams.close)
        self.addCleanup(streams.close)
        self.assertEqual(datagrams.getsockname(), streams.getsockname())
        self.assertFalse(datagrams.getblocking() or streams.getblocking())
        self.assertGreater(datagrams.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), 212992)

    def test_why_not(self) -> None:
        """
        What cannot be bound is named, with the transport, and the reason in words.
        """
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.addCleanup(taken.close)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        error = self.assertRaises(CannotBind, bind_both, "127.0.0.1", number)
        self.assertEqual(
            f"cannot listen on 127.0.0.1 port {number} (TCP): the address is in use; another DNS server is running there",
            str(error),
        )
        error = self.assertRaises(CannotBind, bind_both, "192.0.2.1", 5300)
        self.assertIn("192.0.2.1 port 5300 (UDP): this machine has no such address", str(error))

    def test_a_port_that_is_free_for_both(self) -> None:
        """
        If the port found for UDP is taken for TCP, another is looked for, but not for ever.
        """
        self.patch(socket.socket, "listen", lambda self, backlog: (_ for _ in ()).throw(OSError(98, "in use")))
        error = self.assertRaises(CannotBind, bind_both, "127.0.0.1", 0)
        self.assertEqual("no port of 127.0.0.1 is free for both UDP and TCP", str(error))

    def test_a_kernel_that_gives_no_more_memory(self) -> None:
        """
        Where the receive buffer cannot be enlarged it stays as it is.
        """
        real = socket.socket.setsockopt

        def refuse(self: socket.socket, level: int, option: int, value: Any) -> None:
            if option in (33, socket.SO_RCVBUF):
                raise OSError(1, "not permitted")
            real(self, level, option, value)

        self.patch(socket.socket, "setsockopt", refuse)
        for bound in bind_both("127.0.0.1", 0):
            bound.close()
