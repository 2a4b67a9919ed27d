"""
Which program has a port, by the kernel's tables.
"""

import os
import socket
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.port_owner import owner_of
from tests.config.test_schema import folder

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
V4_ANY, V4_LOOPBACK, V4_OTHER = "00000000", "0100007F", "0100A8C0"
V6_ANY, V6_LOOPBACK = "0" * 32, "0" * 24 + "01000000"
V6_MAPPED = "0000000000000000FFFF00000100007F"


def line(address: str, port: int, state: int, inode: int, uid: int = 0) -> str:
    """
    A socket, as a little-endian machine's table has it.
    """
    rest = f"00000000:00000000 00:00000000 00000000 {uid:5d} 0 {inode} 2 0000000000000000 0"
    return f"  117: {address}:{port:04X} {'0' * len(address)}:0000 {state:02X} {rest}\n"


class PortOwnerTests(SynchronousTestCase):
    """
    Of an address and a port, in a proc(5) of our own.
    """

    if sys.byteorder != "little":
        skip = "the tables are written down as a little-endian machine has them"

    def owner(self, host: str, port: int = 53, kind: socket.SocketKind = socket.SOCK_DGRAM, **tables: str) -> str:
        """
        Who has it by these tables.
        """
        proc = folder(self)
        (proc / "self" / "net").mkdir(parents=True)
        for name, lines in tables.items():
            (proc / "self" / "net" / name).write_text(HEAD + lines)
        for pid, inode in ((7, 100), (812, 101)):
            descriptors = proc / str(pid) / "fd"
            descriptors.mkdir(parents=True)
            (descriptors / "0").symlink_to("/dev/null")
            (descriptors / "3").symlink_to(f"socket:[{inode}]")
            (proc / str(pid) / "comm").write_text(f"server{pid}\n")
        (proc / "9").mkdir()  # it has ended, or may not be looked into
        return owner_of(host, port, kind, proc)

    def test_short_lines_are_skipped(self) -> None:
        """
        Lines after them are read.
        """
        self.assertEqual("server812 (pid 812)", self.owner("127.0.0.1", udp="odd\n" + line(V4_LOOPBACK, 53, 7, 101)))

    def test_owner_is_the_program_bound_to_address_and_transport(self) -> None:
        """
        Not one of another address, and no outgoing connection.
        """
        udp = line(V4_OTHER, 53, 7, 100) + line(V4_LOOPBACK, 54, 7, 100) + line(V4_LOOPBACK, 53, 1, 100)
        self.assertEqual("", self.owner("127.0.0.1", udp=udp, tcp=line(V4_LOOPBACK, 53, 10, 100)))
        self.assertEqual("server812 (pid 812)", self.owner("127.0.0.1", udp=udp + line(V4_LOOPBACK, 53, 7, 101)))
        tcp = line(V4_LOOPBACK, 53, 1, 100) + line(V4_LOOPBACK, 53, 10, 101)
        self.assertEqual("server812 (pid 812)", self.owner("127.0.0.1", 53, socket.SOCK_STREAM, tcp=tcp))

    def test_wildcard_conflicts_with_every_address(self) -> None:
        """
        It conflicts with every address, and every address with it; an IPv6 one also with IPv4 addresses.
        """
        for host, tables in (
            ("127.0.0.1", {"udp": line(V4_ANY, 53, 7, 101)}),
            ("0.0.0.0", {"udp": line(V4_LOOPBACK, 53, 7, 101)}),
            ("127.0.0.1", {"udp6": line(V6_ANY, 53, 7, 101)}),
            ("127.0.0.1", {"udp6": line(V6_MAPPED, 53, 7, 101)}),
            ("::1", {"udp6": line(V6_LOOPBACK, 53, 7, 101)}),
            ("::", {"udp6": line(V6_LOOPBACK, 53, 7, 101)}),
        ):
            self.assertEqual("server812 (pid 812)", self.owner(host, **tables), (host, tables))
        self.assertEqual("", self.owner("::1", udp=line(V4_ANY, 53, 7, 101)))
        self.assertEqual("", self.owner("127.0.0.1", udp6=line(V6_LOOPBACK, 53, 7, 101)))

    def test_user_is_named_if_the_process_is_not_visible(self) -> None:
        """
        By number, if it has no name.
        """
        self.assertEqual("user root", self.owner("127.0.0.1", udp=line(V4_LOOPBACK, 53, 7, 999)))
        self.assertEqual("user 4242424", self.owner("127.0.0.1", udp=line(V4_LOOPBACK, 53, 7, 999, uid=4242424)))

    def test_missing_or_malformed_tables_name_no_owner(self) -> None:
        """
        As on another system.
        """
        self.assertEqual("", self.owner("127.0.0.1"))
        self.assertEqual("", self.owner("127.0.0.1", udp="  117: something else\n"))

    def test_this_process_is_found_in_the_real_tables(self) -> None:
        """
        By the real tables.
        """
        if not Path("/proc/self/net/udp").exists():
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))
            owner = owner_of("127.0.0.1", bound.getsockname()[1], socket.SOCK_DGRAM)
        self.assertIn(f"(pid {os.getpid()})", owner)
