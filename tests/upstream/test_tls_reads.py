"""
All records that have come, in one call.
"""

import contextlib
import threading
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream import tls_reads
from dotproxy.upstream.tls_reads import DirectReads, WholeReads, new_connection
from tests.upstream.scenes import GOOD


class WholeReadsTests(SynchronousTestCase):
    """
    By pyOpenSSL's own means.
    """

    kind: type[SSL.Connection] = WholeReads

    def setUp(self) -> None:
        """
        Shake hands in memory.
        """
        self.client, self.server = self.connected()

    def connected(self) -> tuple[SSL.Connection, SSL.Connection]:
        """
        A client and a server that have shaken hands.
        """
        server = SSL.Connection(GOOD.server_options().getContext(), None)
        server.set_accept_state()
        client = self.kind(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        client.set_connect_state()
        for _ in range(4):
            for one, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                self.carry(one, other)
        self.assertRaises(SSL.WantReadError, client.recv, 100)
        return client, server

    def carry(self, one: SSL.Connection, other: SSL.Connection) -> None:
        """
        Take what one has written to the other.
        """
        with contextlib.suppress(SSL.WantReadError):
            while octets := one.bio_read(1 << 16):
                other.bio_write(octets)

    def test_many_records_are_returned_by_one_read(self) -> None:
        """
        However long they are; then there is no more, and later there is again.
        """

        @settings(max_examples=50, deadline=None)
        @given(st.lists(st.binary(min_size=1, max_size=16384), min_size=1, max_size=9))
        def check(records: list[bytes]) -> None:
            for record in records:
                self.server.send(record)
            self.carry(self.server, self.client)
            read = b""
            with self.assertRaises(SSL.WantReadError):
                while True:
                    read += self.client.recv(1 << 15)
            self.assertEqual(b"".join(records), read)

        check()
        self.server.send(b"a")
        self.server.send(b"b")
        self.carry(self.server, self.client)
        self.assertEqual(b"ab", self.client.recv(1 << 15))

    def test_long_input_is_returned_in_several_pieces(self) -> None:
        """
        The pieces are complete and in order.
        """
        for number in range(20):
            self.server.send(bytes([number]) * 16384)
        self.carry(self.server, self.client)
        read = b""
        while len(read) < 20 * 16384:
            read += self.client.recv(1 << 15)
        self.assertEqual(b"".join(bytes([number]) * 16384 for number in range(20)), read)
        self.assertRaises(SSL.WantReadError, self.client.recv, 100)

    def test_close_notify_is_raised_after_the_data(self) -> None:
        """
        Data first, then the close_notify, on every further read.
        """
        self.server.send(b"the last answer")
        self.server.shutdown()
        self.carry(self.server, self.client)
        self.assertEqual(b"the last answer", self.client.recv(1 << 15))
        for _ in range(3):
            self.assertRaises(SSL.ZeroReturnError, self.client.recv, 1 << 15)

    def test_data_before_a_malformed_record_is_returned(self) -> None:
        """
        The malformed record is an error on the next read.
        """
        self.server.send(b"right")
        self.carry(self.server, self.client)
        self.client.bio_write(b"\x17\x03\x03\x00\x20" + bytes(32))
        self.assertEqual(b"right", self.client.recv(1 << 15))
        self.assertRaises(SSL.Error, self.client.recv, 1 << 15)

    def test_error_without_data_is_raised_at_once(self) -> None:
        """
        Is told at once.
        """
        self.client.bio_write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with self.assertRaises(SSL.Error) as raised:
            self.client.recv(1 << 15)
        self.assertNotIsInstance(raised.exception, SSL.WantReadError)

    def test_refusal_is_raised_after_the_data(self) -> None:
        """
        A reason to end is raised once the data has been returned.
        """
        self.client.refusal = "the server did what it must not"
        for octets in (b"", b"an answer", b"a" * 300000):
            for start in range(0, len(octets), 16384):
                self.server.send(octets[start : start + 16384])
            self.carry(self.server, self.client)
            read = b""
            with self.assertRaises(SSL.Error) as raised:
                while True:
                    read += self.client.recv(1 << 15)
            self.assertEqual(octets, read)
            self.assertEqual(([("dotproxy", "", "the server did what it must not")],), raised.exception.args)

    def test_reads_of_another_thread_do_not_mix(self) -> None:
        """
        What another thread reads at the same time is not in what is returned: OpenSSL runs without the interpreter's lock.
        """
        self.server.send(b"not mine")
        self.carry(self.server, self.client)
        has_read, may_go_on = threading.Event(), threading.Event()
        self.patch(tls_reads, "_library", Stopping(tls_reads._library, has_read, may_go_on))
        read: list[bytes] = []

        def read_in_another() -> None:
            client, server = self.connected()
            server.send(b"mine")
            self.carry(server, client)
            read.append(client.recv(1 << 15))

        first = threading.Thread(target=read_in_another, name="first")
        first.start()
        if self.kind is DirectReads:
            self.assertTrue(has_read.wait(10))
        self.assertEqual(b"not mine", self.client.recv(1 << 15))
        may_go_on.set()
        first.join()
        self.assertEqual([b"mine"], read)


class Stopping:
    """
    The library, in which the thread called first stops when something was read.
    """

    def __init__(self, library: Any, has_read: threading.Event, may_go_on: threading.Event) -> None:
        self._library = library
        self._has_read = has_read
        self._may_go_on = may_go_on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def SSL_read(self, session: Any, buffer: Any, size: int) -> int:
        """
        Read, and stop.
        """
        got: int = self._library.SSL_read(session, buffer, size)
        if got > 0 and threading.current_thread().name == "first":
            self._has_read.set()
            self._may_go_on.wait(10)
        return got


class DirectReadsTests(WholeReadsTests):
    """
    By the library's, which is what is used.
    """

    kind = DirectReads

    def test_direct_reads_are_used_with_this_pyopenssl(self) -> None:
        """
        As long as pyOpenSSL has the attributes it needs.
        """
        self.assertIs(DirectReads, type(new_connection(SSL.Context(SSL.TLS_CLIENT_METHOD))))
