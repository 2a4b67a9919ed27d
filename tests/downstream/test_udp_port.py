"""
UDP in batches, on real sockets, and from a kernel that fails.
"""

import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import SkipTest

from cffi import FFI
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream import recvmmsg, recvmmsg_abi
from dotproxy.downstream.receive_queue import ReceiveQueue
from dotproxy.downstream.sockets import CannotBind, bind_both
from dotproxy.downstream.udp import UdpListener
from dotproxy.downstream.udp_port import BATCH, RecvmmsgPort, SocketAddress, UdpPort, make_port
from dotproxy.errors import ShedReason
from dotproxy.policy.client import Client
from dotproxy.telemetry.counters import Counters


def wait_for_timestamps() -> None:
    """
    Return when the kernel stamps datagrams as they arrive, which it begins to do a moment after it was told to.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            bound.sendto(b"x", bound.getsockname())
            sent = time.time()
            bound.recv(1)
            seconds, nanoseconds = struct.unpack("@ll", ioctl(bound, 0x8907, bytes(16)))
            if seconds + nanoseconds / 1e9 <= sent:
                return
        raise AssertionError("no timestamps")


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
        self.counters = Counters()

    def handle_batch(self, listener: Any, batch: list[tuple[bytes, Any]]) -> int:
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

    def __init__(self, real: socket.socket, errors: list[OSError]) -> None:
        self._real = real
        self._errors = errors
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
        if self._errors:
            raise self._errors.pop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class BatchPortTests(SynchronousTestCase):
    """
    The port that any system has.
    """

    kind: type[UdpPort] = UdpPort

    def fail_once(self, port: Any, number: int) -> None:
        """
        Let the next system call fail.
        """
        port.socket = FailingSocket(port.socket, [OSError(number, "no")])

    def address_of(self, client: socket.socket) -> Client:
        """
        A client, as the port knows it.
        """
        host, number = client.getsockname()
        return Client(host, number, SocketAddress((host, number)))

    def listen(self, host: str) -> tuple[UdpPort, Echo]:
        """
        A port on a free port of ``host``.
        """
        datagrams, streams = bind_both(host, 0)
        streams.close()
        echo, reactor = Echo(), Reactor()
        port = self.kind(datagrams, UdpListener(echo, reactor), reactor)
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

    def test_response_reaches_the_client(self) -> None:
        """
        What a client sends comes in, and what is answered gets back to it.
        """
        for host in ("127.0.0.1", "::1"):
            port, echo = self.listen(host)
            client = self.client(host)
            client.send(b"hello")
            port.doRead()
            self.assertEqual((b"HELLO", [1]), (client.recv(100), echo.batches))

    def test_response_has_the_source_address_the_query_was_sent_to(self) -> None:
        """
        On a wildcard address, too (RFC 2181 §4.1).
        """
        for wildcard, host in (("0.0.0.0", "127.0.0.2"), ("0.0.0.0", "127.9.9.9"), ("::", "::1")):
            port, _ = self.listen(wildcard)
            client = self.client(host)
            client.send(b"hello")
            port.doRead()
            self.assertEqual(b"HELLO", client.recv(100), host)

    def test_large_query_on_a_wildcard_address(self) -> None:
        """
        It is received whole, as on any other address.
        """
        for host in ("127.0.0.1", "0.0.0.0"):
            port, _ = self.listen(host)
            client = self.client("127.0.0.1")
            client.send(b"q" * 4000)
            port.doRead()
            self.assertEqual(b"Q" * 4000, client.recv(65535), host)

    def test_ipv6_is_ipv6_only(self) -> None:
        """
        Both wildcard addresses can be listened on at once, on one port.
        """
        self.listen("0.0.0.0")
        for bound in bind_both("::", self.number):
            bound.close()

    def test_one_turn_reads_one_batch_at_most(self) -> None:
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

    def later(self, port: UdpPort) -> Callable[[float], None]:
        """
        Have a port's clock go by what is given to the returned function, in seconds from now.
        """
        ahead = [0.0]
        port._queue = ReceiveQueue(port._queue._bound, lambda: time.time() + ahead[0])
        port._queue.was_emptied()

        def advance(seconds: float) -> None:
            ahead[0] += seconds

        return advance

    def fill(self, port: UdpPort, host: str, count: int) -> socket.socket:
        """
        Have a client send so many datagrams, after a first batch that turns timestamps on.
        """
        client = self.client(host)
        for _ in range(BATCH):
            client.send(b"first")
        port.doRead()
        port.doRead()
        if sys.platform == "linux":
            wait_for_timestamps()
        for _ in range(count):
            client.send(b"query")
        return client

    def test_queries_older_than_2_seconds_are_dropped_and_counted(self) -> None:
        """
        Full batches whose last datagram waited for more than 2 s are dropped and counted; what came later is handed on,
        as is what does not fill a batch.  On any address.
        """
        if sys.platform != "linux":
            raise SkipTest("this system does not tell when a datagram came")
        for wildcard, host in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "::1")):
            port, echo = self.listen(wildcard)
            advance = self.later(port)
            client = self.fill(port, host, 3 * BATCH + 5)
            advance(2.1)
            client.send(b"fresh")
            port.doRead()
            self.assertEqual([BATCH, 6], echo.batches, wildcard)
            self.assertEqual(3 * BATCH, echo.counters.shed[ShedReason.TOO_OLD])
            self.assertEqual(0.0, port.queue_delay)

    def test_queries_younger_than_2_seconds_are_handed_on(self) -> None:
        """
        Clients still wait for it after a stall of less than 2 s; the delay can be read.
        """
        port, echo = self.listen("127.0.0.1")
        advance = self.later(port)
        self.fill(port, "127.0.0.1", 2 * BATCH)
        advance(1.5)
        port.doRead()
        self.assertEqual([BATCH, BATCH], echo.batches)
        self.assertEqual(0, echo.counters.shed[ShedReason.TOO_OLD])
        if sys.platform == "linux":
            self.assertTrue(1.5 <= port.protocol.queue_delay < 1.9, port.protocol.queue_delay)
        port.doRead()
        port.doRead()
        self.assertEqual(([BATCH] * 3, 0.0), (echo.batches, port.protocol.queue_delay))

    def test_number_dropped_in_one_turn_is_bounded(self) -> None:
        """
        However many are too old, other descriptors get their turn.
        """
        if sys.platform != "linux":
            raise SkipTest("this system does not tell when a datagram came")
        port, echo = self.listen("127.0.0.1")
        advance = self.later(port)
        self.fill(port, "127.0.0.1", 17 * BATCH + 1)
        advance(9.0)
        port.doRead()
        self.assertEqual(([BATCH], 16 * BATCH), (echo.batches, echo.counters.shed[ShedReason.TOO_OLD]))
        port.doRead()
        self.assertEqual(([BATCH, 1], 17 * BATCH), (echo.batches, echo.counters.shed[ShedReason.TOO_OLD]))

    def test_socket_error_keeps_the_port_open(self) -> None:
        """
        The next query is answered.
        """
        for number in (12, 100, 113, 22):  # ENOMEM, ENETDOWN, EHOSTUNREACH, EINVAL
            port, _ = self.listen("127.0.0.1")
            client = self.client("127.0.0.1")
            client.send(b"one")
            self.fail_once(port, number)
            port.doRead()
            port.doRead()
            self.assertEqual((b"ONE", 1), (client.recv(100), port.errors))

    def test_failed_send_loses_one_response(self) -> None:
        """
        One failed write does not keep the others from going out.
        """
        port, _ = self.listen("127.0.0.1")
        client = self.client("127.0.0.1")
        self.fail_once(port, 11)
        address = self.address_of(client)
        port.write_batch([(b"lost", address), (b"found", address)])
        self.assertEqual((b"found", 1), (client.recv(100), port.errors))

    def test_datagrams_dropped_by_the_kernel_are_counted(self) -> None:
        """
        The kernel has the number.
        """
        port, _ = self.listen("127.0.0.1")
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client = self.client("127.0.0.1")
        for _ in range(50):
            client.send(b"x" * 100)
        kept = 0
        while True:
            port.protocol.datagrams_received = lambda batch, seen=(seen := []): seen.extend(batch)
            port.doRead()
            if not seen:
                break
            kept += len(seen)
        self.assertEqual(50 if sys.platform == "linux" else kept, kept + port.drops)
        self.assertLess(kept, 50)
        port.socket.close()
        self.assertEqual(0, port.drops)

    def test_exception_in_the_listener_is_logged_and_the_port_stays_open(self) -> None:
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

    def test_responses_after_the_close_are_dropped(self) -> None:
        """
        When the port is closed answers are dropped.
        """
        port, _ = self.listen("127.0.0.1")
        listener = port.protocol
        port.socket = None
        listener.send_answers([(b"late", Client("127.0.0.1", 9))])
        listener.transport = None
        listener.send_answers([(b"late", Client("127.0.0.1", 9))])

    def test_other_ports_deliver_datagrams_one_by_one(self) -> None:
        """
        Ports that are not BatchPort.
        """
        echo = Echo()
        listener = UdpListener(echo, None)
        self.assertFalse(listener.is_stream)
        self.assertEqual(0.0, listener.queue_delay)
        listener.datagramReceived(b"x", ("127.0.0.1", 9))
        self.assertEqual([1], echo.batches)


class MultiPortTests(BatchPortTests):
    """
    The port that Linux has, when it sends all with one system call.
    """

    kind = RecvmmsgPort
    few = 0

    def setUp(self) -> None:
        """
        Only there.
        """
        if sys.platform != "linux":
            raise SkipTest("this system has no recvmmsg")
        self.patch(recvmmsg, "_FEW", self.few)

    def fail_once(self, port: Any, number: int) -> None:
        """
        Let the next system call fail.
        """
        messages = port._slots
        errors = [OSError(number, "no")]

        def failing(real: Any) -> Any:
            def call(*given: Any) -> int:
                if not errors:
                    return int(real(*given))
                messages._ffi.errno = errors.pop().errno
                return -1

            return call

        messages._recvmmsg, messages._sendmmsg = failing(messages._recvmmsg), failing(messages._sendmmsg)
        messages._socket = FailingSocket(messages._socket, errors)

    def address_of(self, client: socket.socket) -> Client:
        """
        A client, as the port knows it.
        """
        host, number = client.getsockname()
        name = struct.pack("=H", socket.AF_INET) + struct.pack("!H", number) + socket.inet_aton(host) + bytes(8)
        return Client(host, number, name)

    def test_responses_of_all_sizes_reach_their_clients(self) -> None:
        """
        Each client gets its own, also one that fits no slot.
        """
        for host in ("127.0.0.1", "::1"):
            port, echo = self.listen(host)
            clients = [self.client(host) for _ in range(20)]
            for number, client in enumerate(clients):
                client.send(b"%d:" % number + b"x" * number * 200)
            seen: list[Any] = []
            real = echo.handle_batch

            def note(listener: Any, batch: Any, real: Any = real, seen: list[Any] = seen) -> int:
                seen.extend((client.host, client.port) for _, client in batch)
                return real(listener, batch)

            port.protocol._handle_batch = note
            port.doRead()
            self.assertEqual([client.getsockname()[:2] for client in clients], seen)
            for number, client in enumerate(clients):
                self.assertEqual(b"%d:" % number + b"X" * number * 200, client.recv(65535))

    def test_long_responses_and_several_batches_are_sent(self) -> None:
        """
        Long answers among short ones, and more answers than slots.
        """
        for wildcard in ("127.0.0.1", "0.0.0.0"):
            port, echo = self.listen(wildcard)
            client = self.client("127.0.0.1")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            echo.handle_batch = None  # type: ignore[assignment]
            asked: list[Any] = []
            port.protocol._handle_batch = lambda listener, batch, asked=asked: asked.extend(batch)
            client.send(b"q")
            port.doRead()
            ((_, address),) = asked
            answers = [b"%d " % number + b"y" * (9000 if number == 70 else 10) for number in range(150)]
            port.write_batch([(answer, address) for answer in answers])
            self.assertEqual(sorted(answers), sorted(client.recv(65535) for _ in range(150)))
            self.assertEqual(0, port.errors)

    def test_cached_client_addresses_are_bounded(self) -> None:
        """
        There is no end of addresses, but of what is remembered.
        """
        port, _ = self.listen("127.0.0.1")
        port._slots._clients.update({b"%d" % number: Client("", 0) for number in range(8192)})
        client = self.client("127.0.0.1")
        client.send(b"one")
        port.doRead()
        self.assertEqual((b"ONE", 1), (client.recv(100), len(port._slots._clients)))

    def test_single_port_is_used_without_recvmmsg(self) -> None:
        """
        Where the call does not exist.
        """
        datagrams, streams = bind_both("127.0.0.1", 0)
        self.addCleanup(datagrams.close)
        streams.close()
        self.assertIs(RecvmmsgPort, type(make_port(datagrams, None, Reactor())))
        self.assertIs(UdpPort, type(make_port(datagrams, None, Reactor(), batched=False)))
        self.patch(sys, "platform", "plan9")
        self.assertIs(UdpPort, type(make_port(datagrams, None, Reactor())))

    def test_single_port_is_used_if_recvmmsg_is_forbidden(self) -> None:
        """
        A sandbox may forbid the call.
        """
        real = recvmmsg_abi.ffi

        class Forbidding:
            NULL = real.NULL
            errno = 1

            def dlopen(self, name: None) -> Any:
                return self

            def recvmmsg(self, *given: Any) -> int:
                return -1

            sendmmsg = recvmmsg

        self.patch(recvmmsg_abi, "ffi", Forbidding())
        datagrams, streams = bind_both("127.0.0.1", 0)
        self.addCleanup(datagrams.close)
        streams.close()
        self.assertIs(UdpPort, type(make_port(datagrams, None, Reactor())))

    def test_cffi_declarations_match_the_generated_module(self) -> None:
        """
        It is what cffi makes of the declarations.
        """
        ffi = FFI()
        ffi.cdef(recvmmsg_abi.__doc__.partition("\n\n    ")[2])
        ffi.set_source("recvmmsg_abi", None)
        with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            ffi.emit_python_code(f"{folder}/made.py")
            made = Path(f"{folder}/made.py").read_text().split("\n\n")[1].strip()
        self.assertIn(made, Path(recvmmsg_abi.__file__).read_text())


class FewAtOnceTests(MultiPortTests):
    """
    The same, when it sends one by one.
    """

    few = 1000


class BindTests(SynchronousTestCase):
    """
    Sockets.
    """

    def test_udp_and_tcp_are_bound_to_the_same_port(self) -> None:
        """
        Also for port 0; neither socket blocks.
        """
        datagrams, streams = bind_both("127.0.0.1", 0)
        self.addCleanup(datagrams.close)
        self.addCleanup(streams.close)
        self.assertEqual(datagrams.getsockname(), streams.getsockname())
        self.assertFalse(datagrams.getblocking() or streams.getblocking())
        self.assertGreater(datagrams.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), 212992)

    def test_bind_error_names_address_transport_and_reason(self) -> None:
        """
        What cannot be bound is named, with the transport, and the reason in words.
        """
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.addCleanup(taken.close)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        error = self.assertRaises(CannotBind, bind_both, "127.0.0.1", number)
        told = f"cannot listen on 127.0.0.1 port {number} (TCP): the address is in use by "
        self.assertTrue(str(error).startswith(told), str(error))

    def test_another_port_is_tried_if_tcp_is_taken(self) -> None:
        """
        With a bounded number of attempts.
        """
        self.patch(socket.socket, "listen", lambda self, backlog: (_ for _ in ()).throw(OSError(98, "in use")))
        error = self.assertRaises(CannotBind, bind_both, "127.0.0.1", 0)
        self.assertEqual("no port of 127.0.0.1 is free for both UDP and TCP", str(error))

    def test_receive_buffer_stays_if_it_cannot_be_enlarged(self) -> None:
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
