"""
When a datagram has waited too long.
"""

import fcntl
import socket
import struct
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.receive_queue import MAX_WAIT, SUSTAINED_AFTER, SUSTAINED_MAX_WAIT, ReceiveQueue


class ReceiveQueueTests(SynchronousTestCase):
    """
    Against a kernel whose answers are made up.
    """

    def setUp(self) -> None:
        """
        At 1000 s, a datagram that came just now.
        """
        self.patch(sys, "platform", "linux")
        self.now = self.arrived = 1000.0
        self.patch(fcntl, "ioctl", self.ioctl)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.queue = ReceiveQueue(self.socket, lambda: self.now)

    def ioctl(self, bound: socket.socket, request: int, room: bytes) -> bytes:
        """
        When the last datagram came.
        """
        self.assertEqual((self.socket, 0x8907), (bound, request))
        return struct.pack("@ll", int(self.arrived), int(self.arrived % 1 * 1e9))

    def is_stale_after(self, waited: float) -> bool:
        """
        Whether a full batch is dropped now whose last datagram waited for so long.
        """
        self.arrived = self.now - waited
        return self.queue.is_stale()

    def test_queries_are_valid_for_2_seconds_after_a_stall(self) -> None:
        """
        After a moment in which nothing was read, queries less than 2 s old are handed on.
        """
        self.assertFalse(self.is_stale_after(MAX_WAIT - 0.01))
        self.assertAlmostEqual(MAX_WAIT - 0.01, self.queue.delay, 5)
        self.assertTrue(self.is_stale_after(MAX_WAIT + 0.01))

    def test_bounds(self) -> None:
        """
        2 s are not too long, nor is 0.25 s from the first second without an empty buffer on; more is.
        """
        self.assertFalse(self.is_stale_after(2.0))
        self.now += 0.75
        self.assertFalse(self.is_stale_after(0.5))
        self.now += 0.25
        self.assertTrue(self.is_stale_after(0.5))
        self.assertFalse(self.is_stale_after(0.25))
        self.assertTrue(self.is_stale_after(0.2501))

    def test_limit_is_a_quarter_second_under_sustained_load(self) -> None:
        """
        When the buffer was not empty for a second, the limit is 0.25 s; once it was, 2 s again.
        """
        self.assertFalse(self.is_stale_after(0.5))
        self.now += SUSTAINED_AFTER - 0.01
        self.assertFalse(self.is_stale_after(0.5))
        self.now += 0.02
        self.assertTrue(self.is_stale_after(SUSTAINED_MAX_WAIT + 0.01))
        self.assertFalse(self.is_stale_after(SUSTAINED_MAX_WAIT - 0.01))
        self.queue.was_emptied()
        self.assertEqual(0.0, self.queue.delay)
        self.assertFalse(self.is_stale_after(0.5))

    def test_clock_set_back_drops_nothing(self) -> None:
        """
        Is no reason to drop anything.
        """
        self.assertFalse(self.is_stale_after(-3600.0))
        self.assertEqual(0.0, self.queue.delay)

    def test_nothing_is_dropped_without_timestamps(self) -> None:
        """
        In a sandbox that forbids the call, and on other systems.
        """

        def refuse(*given: Any) -> bytes:
            raise OSError(25, "inappropriate")

        self.patch(fcntl, "ioctl", refuse)
        self.now += 10 * MAX_WAIT
        self.assertFalse(self.queue.is_stale())
        self.patch(sys, "platform", "plan9")
        self.patch(fcntl, "ioctl", None)
        self.assertFalse(self.queue.is_stale())
        self.assertEqual(0.0, self.queue.delay)
