"""
Listening sockets: what can be bound, and why not.
"""

import socket
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream import sockets
from dotproxy.downstream.sockets import CannotBind, bind_both, bind_every, bind_with_tls, has_address

#: Addresses for documentation (RFC 5737, RFC 3849): no machine has them.
ABSENT = ("192.0.2.1", "2001:db8::1")


class AbsentAddressTests(SynchronousTestCase):
    """
    An address that this machine does not have yet.
    """

    def bound(self, host: str, count: int = 1) -> list[socket.socket]:
        """
        All sockets for a port of an address.
        """
        datagrams, streams = bind_every([(host, 0)], count)
        every = [*streams, *(one for several in datagrams for one in several)]
        for one in every:
            self.addCleanup(one.close)
        return every

    def test_it_is_bound_on_linux(self) -> None:
        """
        For both transports and any number of workers, as an address that is there.
        """
        if sys.platform != "linux":
            return
        for host in ABSENT:
            for count in (1, 3):
                every = self.bound(host, count)
                self.assertEqual({host}, {one.getsockname()[0] for one in every})
                self.assertEqual(1 + count, len(every))
                self.assertFalse(has_address(host))

    def test_it_is_an_error_elsewhere(self) -> None:
        """
        Other systems cannot do that.
        """
        self.patch(sockets.sys, "platform", "freebsd14")
        error = self.assertRaises(CannotBind, bind_both, "192.0.2.1", 5300)
        self.assertIn("192.0.2.1 port 5300 (UDP): this machine has no such address", str(error))

    def test_what_is_there_is_bound_as_ever(self) -> None:
        """
        Without IP_FREEBIND (15), which is for what is not; wildcards are there.
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
    What cannot be bound is named, with the transport and the reason.
    """

    def reason(self, host: str = "127.0.0.1") -> str:
        """
        Why a port that is taken cannot be bound.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            number = taken.getsockname()[1]
            error = self.assertRaises(CannotBind, bind_both, host, number)
        return str(error).replace(str(number), "PORT")

    def test_who_has_it(self) -> None:
        """
        As far as that is known; there is a way to get it from systemd-resolved.
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

    def test_no_such_interface(self) -> None:
        """
        A link-local address needs its interface.
        """
        error = self.assertRaises(CannotBind, bind_both, "fe80::1%nosuch0", 53)
        self.assertEqual(
            "cannot listen on fe80::1%nosuch0 port 53 (UDP): this machine has no interface nosuch0", str(error)
        )

    def test_no_ipv6(self) -> None:
        """
        A machine without IPv6 cannot even make the socket.
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

    def test_all_or_none(self) -> None:
        """
        Every address that cannot be bound is named, and then none is.
        """
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = taken.getsockname()[:2]
            error = self.assertRaises(CannotBind, bind_with_tls, [address], [address, ("127.0.0.1", 0)])
            self.assertEqual(2, len(str(error).splitlines()))
        datagrams, streams, tls_streams = bind_with_tls([("127.0.0.1", 0)], [("127.0.0.1", 0)] * 2, 3)
        every = [*streams, *tls_streams, *(one for several in datagrams for one in several)]
        for one in every:
            self.addCleanup(one.close)
        self.assertEqual((3, 1, 2), (len(datagrams), len(streams), len(tls_streams)))
