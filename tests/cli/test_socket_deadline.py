"""
A bound on how long a blocking conversation takes in all.
"""

import socket

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.socket_deadline import deadline


class DeadlineTests(SynchronousTestCase):
    """
    On a pair of connected sockets.
    """

    def setUp(self) -> None:
        self.here, self.there = socket.socketpair()
        self.addCleanup(self.here.close)
        self.addCleanup(self.there.close)

    def test_connection_in_time_is_unaffected(self) -> None:
        """
        Nothing happens to the connection.
        """
        with deadline(self.here, 60.0):
            self.there.send(b"x")
            self.assertEqual(b"x", self.here.recv(10))
        self.there.send(b"y")
        self.assertEqual(b"y", self.here.recv(10))

    def test_read_after_the_deadline_sees_the_end(self) -> None:
        """
        Whoever reads finds the end, although the peer has not closed.
        """
        with deadline(self.here, 0.01):
            self.assertEqual(b"", self.here.recv(10))
        self.assertRaises(OSError, self.here.send, b"x")

    def test_connection_may_be_closed_in_the_block(self) -> None:
        """
        The block may close the connection itself.
        """
        with deadline(self.here, 0.01):
            self.here.close()
            self.assertEqual(b"", self.there.recv(10))
