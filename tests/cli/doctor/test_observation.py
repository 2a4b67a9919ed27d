"""
What packets tell of the names that were looked up.
"""

import socket
import struct
import sys

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.doctor.diagnosis import Listening
from dotproxy.cli.doctor.observation import NAMES, destination, filter_for, judge, make_names
from dotproxy.cli.doctor.system import Server
from dotproxy.testing.client import make_query

IPV4, IPV6 = 0x0800, 0x86DD


def udp(host: str, port: int, payload: bytes) -> tuple[int, bytes]:
    """
    A datagram, from its IP header on, and its protocol.
    """
    datagram = struct.pack("!4H", 40000, port, 8 + len(payload), 0) + payload
    if ":" in host:
        header = struct.pack("!IHBB", 6 << 28, len(datagram), 17, 64)
        return IPV6, header + bytes(16) + socket.inet_pton(socket.AF_INET6, host) + datagram
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, bytes(4), socket.inet_aton(host)
    )
    return IPV4, header + datagram


def tcp(host: str, port: int, payload: bytes) -> tuple[int, bytes]:
    """
    A segment with options.
    """
    segment = struct.pack("!HHIIBBHHH", 40000, port, 0, 0, 8 << 4, 0x18, 0, 0, 0) + bytes(12) + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0, bytes(4), socket.inet_aton(host))
    return IPV4, header + segment


def passes(instructions: bytes, packet: bytes) -> bool:
    """
    What the kernel makes of a filter: the instructions that are in it, one after the other.
    """
    program = list(struct.iter_unpack("=HBBI", instructions))
    place = accumulator = index = 0
    while True:
        code, on_true, on_false, constant = program[place]
        place += 1
        if code == 0x30:
            accumulator = packet[constant]
        elif code == 0x28:
            accumulator = int.from_bytes(packet[constant : constant + 2], "big")
        elif code == 0x48:
            accumulator = int.from_bytes(packet[index + constant : index + constant + 2], "big")
        elif code == 0xB1:
            index = 4 * (packet[constant] & 15)
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x15:
            place += on_true if accumulator == constant else on_false
        else:
            assert code == 6
            return bool(constant)


class PacketTests(SynchronousTestCase):
    """
    Packets.
    """

    def test_destinations_of_queries_are_parsed(self) -> None:
        """
        UDP and TCP over either family; a segment without data, and what is cut short, is no query.
        """
        for host in ("192.0.2.1", "2001:db8::1"):
            self.assertEqual(Server(host), destination(*udp(host, 53, b"x")))
            self.assertIsNone(destination(*udp(host, 53, b"")))
        self.assertEqual(Server("192.0.2.1", 853), destination(*tcp("192.0.2.1", 853, b"x")))
        self.assertIsNone(destination(*tcp("192.0.2.1", 53, b"")))
        protocol, packet = udp("192.0.2.1", 53, b"x")
        for size in range(len(packet)):
            self.assertIsNone(destination(protocol, packet[:size]))
        self.assertIsNone(destination(0x0806, packet))

    def test_filter_passes_the_ports_only(self) -> None:
        """
        The kernel hands on what goes to one of the ports, over either family, and nothing else.
        """
        instructions = filter_for([53, 5300])
        for make in (udp, tcp):
            for port, expected in ((53, True), (5300, True), (853, False), (0, False)):
                self.assertEqual(expected, passes(instructions, make("192.0.2.1", port, b"x")[1]), port)
        for port, expected in ((53, True), (5300, True), (54, False)):
            self.assertEqual(expected, passes(instructions, udp("2001:db8::1", port, b"x")[1]), port)
        self.assertFalse(passes(instructions, b"\x00" * 60))

    def test_test_names_are_counted_by_destination(self) -> None:
        """
        Test names at dotproxy and elsewhere are told apart, whatever suffix or spelling of the rest; others are counted.
        """
        names = ("aaaa.test", "bbbb.test")
        listening = Listening((Server("127.0.0.1"),), lambda host: False)
        here, there, other = Server("127.0.0.1"), Server("192.0.2.1"), Server("192.0.2.2")
        queries = [
            (here, False, make_query("aaaa.test.", 1)),
            (here, False, make_query("bbbb.test.", 28)),
            (there, True, make_query("bbbb.test.corp.example.", 1)),
            (other, True, make_query("www.example.", 1)),
            (other, True, make_query("aaaa-not.example.", 1)),
            (Server("127.0.0.53"), False, make_query("aaaa.test.", 1)),  # on this machine
            (Server("192.0.2.3", 5300), True, make_query("www.example.", 1)),  # dotproxy's port, somebody else's
        ]
        evidence = judge(names, queries, listening)
        self.assertEqual((2, 2), (evidence.names, evidence.at_dotproxy))
        self.assertEqual(({there}, {other: 2}), (evidence.left, evidence.others))

    def test_test_names_are_random_below_test(self) -> None:
        """
        Below .test, and others each time.
        """
        first, second = make_names(), make_names()
        self.assertEqual(2 * NAMES, len({*first, *second}))
        self.assertTrue(all(name.endswith(".test") for name in first))


if sys.platform != "linux":
    PacketTests.skip = "packet sockets are Linux's"  # type: ignore[attr-defined]
