"""
TCP options of connections to upstreams, as the kernel has them afterwards.
"""

import socket
import sys

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream import tcp_options
from dotproxy.upstream.tcp_options import TICKET_DELAY, acknowledge_now, limit_unacknowledged


class OptionTests(SynchronousTestCase):
    """
    On a socket that is not connected.
    """

    if sys.platform != "linux":
        skip = "Linux has these options"

    def setUp(self) -> None:
        self.socket = socket.socket()
        self.addCleanup(self.socket.close)

    def option(self, name: int) -> int:
        return self.socket.getsockopt(socket.IPPROTO_TCP, name)

    def test_tcp_user_timeout_is_10_seconds(self) -> None:
        """
        The connection ends after that time without acknowledgement of data sent (RFC 5482).
        """
        self.assertEqual(0, self.option(socket.TCP_USER_TIMEOUT))
        limit_unacknowledged(self.socket)
        self.assertEqual(10_000, self.option(socket.TCP_USER_TIMEOUT))

    def test_session_tickets_are_acknowledged_two_milliseconds_after_the_handshake(self) -> None:
        """
        Session tickets two milliseconds after the handshake.
        """
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        acknowledge_now(self.socket)
        self.assertNotEqual(0, self.option(socket.TCP_QUICKACK))
        self.assertEqual(0.002, TICKET_DELAY)

    def test_systems_without_the_options_are_left_alone(self) -> None:
        """
        No option is set there.
        """
        self.patch(tcp_options, "_QUICKACK", None)
        self.patch(tcp_options, "_USER_TIMEOUT", None)
        acknowledge_now(self.socket)
        limit_unacknowledged(self.socket)
        self.assertEqual(0, self.option(socket.TCP_USER_TIMEOUT))
