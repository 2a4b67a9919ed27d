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

    def test_in_time(self) -> None:
        """
        Nothing happens to the connection.
        """
        with deadline(self.here, 60.0):
            self.there.send(b"x")
            self.assertEqual(b"x", self.here.recv(10))
        self.there.send(b"y")
        self.assertEqual(b"y", self.here.recv(10))

    def test_too_late(self) -> None:
        """
        Whoever reads finds the end, although the peer has not closed.
        """
        with deadline(self.here, 0.01):
            self.assertEqual(b"", self.here.recv(10))
        self.assertRaises(OSError, self.here.send, b"x")

    def test_closed_meanwhile(self) -> None:
        """
        The block may close the connection itself.
        """
        with deadline(self.here, 0.01):
            self.here.close()
            self.assertEqual(b"", self.there.recv(10))
