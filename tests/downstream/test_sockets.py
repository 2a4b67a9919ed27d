"""
Listening sockets: what can be bound, and what an error says.
"""

import socket
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream import sockets
from dotproxy.downstream.sockets import CannotBind, bind_all, bind_both, has_address

#: Addresses for documentation (RFC 5737, RFC 3849): no machine has them.
ABSENT = ("192.0.2.1", "2001:db8::1")


class AbsentAddressTests(SynchronousTestCase):
    """
    An address that this machine does not have yet.
    """

    def bound(self, host: str, count: int = 1) -> list[socket.socket]:
        """
        Return all sockets of ``count`` workers for a free port of an address.
        """
        listening = bind_all([(host, 0)], workers=count)
        self.addCleanup(listening.close)
        return [*listening.tcp, *(one for of_worker in listening.udp for one in of_worker)]

    def test_absent_address_is_bound_on_linux(self) -> None:
        """
        Both transports are bound for any number of workers, as for an address that is there.
        """
        if sys.platform != "linux":
            return
        for host in ABSENT:
            for count in (1, 3):
                every = self.bound(host, count)
                self.assertEqual({host}, {one.getsockname()[0] for one in every})
                self.assertEqual(1 + count, len(every))
                self.assertFalse(has_address(host))

    def test_absent_address_is_an_error_on_other_systems(self) -> None:
        """
        Without IP_FREEBIND the error names the address.
        """
        self.patch(sockets.sys, "platform", "freebsd14")
        error = self.assertRaises(CannotBind, bind_both, "192.0.2.1", 5300)
        self.assertIn("192.0.2.1 port 5300 (UDP): this machine has no such address", str(error))

    def test_present_address_is_bound_without_freebind(self) -> None:
        """
        IP_FREEBIND (15) is not set for an address that is there; wildcards always are.
        """
        asked: list[int] = []
        real = socket.socket.setsockopt

        def note(self: socket.socket, level: int, option: int, value: Any) -> None:
            asked.append(option)
            real(self, level, option, value)

        self.patch(socket.socket, "setsockopt", note)
        self.bound("127.0.0.1")
        self.assertTrue(asked)
        self.assertNotIn(15, asked)
        self.assertTrue(all(map(has_address, ("127.0.0.1", "0.0.0.0"))))


class ReasonTests(SynchronousTestCase):
    """
    The error names address, transport and reason.
    """

    def reason(self, host: str = "127.0.0.1") -> str:
        """
        Return the error for a port that is taken.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            number = taken.getsockname()[1]
            error = self.assertRaises(CannotBind, bind_both, host, number)
        return str(error).replace(str(number), "PORT")

    def test_error_names_the_owner_of_the_port(self) -> None:
        """
        If it is known; for systemd-resolved with the setting that frees the port.
        """
        for owner, told in (
            ("unbound (pid 8)", "unbound (pid 8)"),
            ("", "another program"),
            (
                "systemd-resolve (pid 8)",
                "systemd-resolve (pid 8); DNSStubListener=no in /etc/systemd/resolved.conf frees it",
            ),
        ):
            self.patch(sockets, "owner_of", lambda host, port, kind, owner=owner: owner)
            wanted = f"cannot listen on 127.0.0.1 port PORT (TCP): the address is in use by {told}"
            self.assertEqual(wanted, self.reason())

    def test_error_names_a_missing_interface(self) -> None:
        """
        A link-local address has an interface that must exist.
        """
        error = self.assertRaises(CannotBind, bind_both, "fe80::1%nosuch0", 53)
        self.assertEqual(
            "cannot listen on fe80::1%nosuch0 port 53 (UDP): this machine has no interface nosuch0", str(error)
        )

    def test_error_says_there_is_no_ipv6(self) -> None:
        """
        On a machine without IPv6 the socket itself cannot be made.
        """

        def refuse(family: int, kind: int) -> None:
            raise OSError(97, "Address family not supported by protocol")

        self.patch(sockets.socket, "socket", refuse)
        error = self.assertRaises(CannotBind, bind_both, "::1", 5300)
        self.assertEqual("cannot listen on ::1 port 5300 (UDP): this machine has no IPv6", str(error))


class TlsTests(SynchronousTestCase):
    """
    Sockets for plain DNS and for TLS.
    """

    def test_all_addresses_are_bound_or_none(self) -> None:
        """
        The error names every address that cannot be bound, and no socket stays open.
        """
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = taken.getsockname()[:2]
            error = self.assertRaises(CannotBind, bind_all, [address], [address, ("127.0.0.1", 0)])
            self.assertEqual(2, len(str(error).splitlines()))
        listening = bind_all([("127.0.0.1", 0)], [("127.0.0.1", 0)] * 2, 3)
        self.addCleanup(listening.close)
        self.assertEqual((3, 1, 2), (len(listening.udp), len(listening.tcp), len(listening.tls)))

    def test_failed_worker_socket_closes_the_others(self) -> None:
        """
        If one worker's UDP socket cannot be bound, those bound before it are closed.
        """
        real, made = sockets._bind, []

        def fail_at_the_third_worker(host: str, port: int, kind: socket.SocketKind, *, is_shared: bool = False) -> Any:
            if len(made) == 4:
                raise CannotBind("no more")
            made.append(real(host, port, kind, is_shared=is_shared))
            return made[-1]

        self.patch(sockets, "_bind", fail_at_the_third_worker)
        error = self.assertRaises(CannotBind, bind_all, [("127.0.0.1", 0)], workers=3)
        self.assertEqual("no more", str(error))
        self.assertEqual([-1] * 4, [one.fileno() for one in made])
