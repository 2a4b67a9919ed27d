"""
Which socket is given which question: by the kernel, on loopback.
"""

import socket
import sys
from collections import Counter
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.sockets import bind_every
from dotproxy.downstream.steering import program, steer
from dotproxy.testing.client import make_query
from dotproxy.wire.message import question_of


class SteeringTests(SynchronousTestCase):
    """
    Several sockets on one address.
    """

    def setUp(self) -> None:
        """
        Three of them.
        """
        if sys.platform != "linux":
            raise SkipTest("this system has no such thing")
        datagrams, (streams,) = bind_every([("127.0.0.1", 0)], 3)
        self.sockets = [bound for (bound,) in datagrams]
        for bound in (*self.sockets, streams):
            self.addCleanup(bound.close)
        self.assertTrue(steer(self.sockets))
        self.address = self.sockets[0].getsockname()

    def whose(self, message: bytes) -> int:
        """
        Which of them is given a message, from a client nobody has seen before.
        """
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(message, self.address)
        for number, bound in enumerate(self.sockets):
            try:
                self.assertEqual(message, bound.recv(65535))
            except BlockingIOError:
                continue
            return number
        raise AssertionError

    def test_a_name_is_one_sockets(self) -> None:
        """
        Whatever the spelling, the type, the ID, the flags and EDNS.
        """

        @settings(max_examples=300, deadline=None)
        @given(st.lists(st.binary(min_size=1, max_size=63), max_size=3), st.integers(0, 65535), st.data())
        def check(labels: list[bytes], ident: int, data: st.DataObject) -> None:
            name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
            other = bytearray(name)
            where = 0
            for label in labels:
                where += 1
                for place in range(where, where + len(label)):
                    if chr(other[place]).isascii() and chr(other[place]).isalpha() and data.draw(st.booleans()):
                        other[place] ^= 0x20
                where += len(label)
            message = bytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1"
            with_edns = make_query("x.", 1, edns=True)
            opt = with_edns[question_of(with_edns) :]
            head = ident.to_bytes(2, "big") + b"\0\x10\0\1\0\0\0\0\0\1"
            self.assertEqual(self.whose(message), self.whose(head + bytes(other) + b"\0\x41\0\1" + opt))

        check()

    def test_names_are_spread(self) -> None:
        """
        Also such as differ in one octet, at either end of a label, or in a label further up.
        """
        for names in (
            [f"n{number:05}.example." for number in range(600)],
            [f"www.a-rather-long-name-{number}.com." for number in range(600)],
            [f"{number}-a-rather-long-name.com." for number in range(600)],
            [f"{number % 250}.{number // 250}.0.10.in-addr.arpa." for number in range(600)],
            [f"a.b.c.d.e.f.{number}.com." for number in range(600)],
            [f"{number}." for number in range(600)],
        ):
            counted = Counter(self.whose(make_query(name, 1)) for name in names)
            self.assertEqual(3, len(counted), names[0])
            self.assertGreater(min(counted.values()), 130, names[0])

    def test_what_is_no_message(self) -> None:
        """
        Is the first one's.
        """
        for message in (b"", b"x", bytes(12), bytes(12) + b"\x3fabc", bytes(12) + b"\xc0\x0c", bytes(11)):
            self.assertEqual(0, self.whose(message), message)

    def test_a_program_that_the_kernel_takes(self) -> None:
        """
        Jumps go forward, and not too far: an octet holds how far.
        """
        for count in (2, 256):
            self.assertEqual(0, len(program(count)) % 8)
            self.assertLess(len(program(count)) // 8, 256)

    def test_elsewhere(self) -> None:
        """
        A socket for which that is nothing is said to be one.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            self.assertFalse(steer([other]))
