"""
All records that have come, in one call.
"""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream.records import DirectReads, WholeReads, new_connection
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
        self.server = SSL.Connection(GOOD.server_options().getContext(), None)
        self.server.set_accept_state()
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.client = self.kind(context, None)
        self.client.set_connect_state()
        for _ in range(4):
            for one, other in ((self.client, self.server), (self.server, self.client)):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                self.carry(one, other)
        self.assertRaises(SSL.WantReadError, self.client.recv, 100)

    def carry(self, one: SSL.Connection, other: SSL.Connection) -> None:
        """
        Take what one has written to the other.
        """
        with contextlib.suppress(SSL.WantReadError):
            while octets := one.bio_read(1 << 16):
                other.bio_write(octets)

    def test_many_records_are_one_read(self) -> None:
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

    def test_what_is_longer_than_any_buffer(self) -> None:
        """
        Comes in more than one piece, and whole.
        """
        for number in range(20):
            self.server.send(bytes([number]) * 16384)
        self.carry(self.server, self.client)
        read = b""
        while len(read) < 20 * 16384:
            read += self.client.recv(1 << 15)
        self.assertEqual(b"".join(bytes([number]) * 16384 for number in range(20)), read)
        self.assertRaises(SSL.WantReadError, self.client.recv, 100)

    def test_the_end_comes_after_what_came_before_it(self) -> None:
        """
        Answers, and then a close_notify: first the one, then the other, and always again.
        """
        self.server.send(b"the last answer")
        self.server.shutdown()
        self.carry(self.server, self.client)
        self.assertEqual(b"the last answer", self.client.recv(1 << 15))
        for _ in range(3):
            self.assertRaises(SSL.ZeroReturnError, self.client.recv, 1 << 15)

    def test_what_is_no_record(self) -> None:
        """
        What was right before it counts; it is an error all the same.
        """
        self.server.send(b"right")
        self.carry(self.server, self.client)
        self.client.bio_write(b"\x17\x03\x03\x00\x20" + bytes(32))
        self.assertEqual(b"right", self.client.recv(1 << 15))
        self.assertRaises(SSL.Error, self.client.recv, 1 << 15)

    def test_nothing_but_an_error(self) -> None:
        """
        Is told at once.
        """
        self.client.bio_write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with self.assertRaises(SSL.Error) as raised:
            self.client.recv(1 << 15)
        self.assertNotIsInstance(raised.exception, SSL.WantReadError)


class DirectReadsTests(WholeReadsTests):
    """
    By the library's, which is what is used.
    """

    kind = DirectReads

    def test_it_is_used(self) -> None:
        """
        As long as pyOpenSSL has what it takes.
        """
        self.assertIs(DirectReads, type(new_connection(SSL.Context(SSL.TLS_CLIENT_METHOD))))
