"""
What is told to systemd, and what it hands over.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.systemd import ServiceNotifier, inherited, inherited_for_tls, initial_environment
from tests.config.test_schema import folder


class ManagerTests(SynchronousTestCase):
    """
    sd_notify(3).
    """

    def setUp(self) -> None:
        """
        An ear where systemd's would be.
        """
        self.path = folder(self) / "notify"
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.bind(str(self.path))
        self.ear.setblocking(False)
        self.addCleanup(self.ear.close)
        self.clock = Clock()

    def heard(self) -> list[str]:
        """
        What was told.
        """
        told: list[str] = []
        try:
            while True:
                told.append(self.ear.recv(4096).decode())
        except BlockingIOError:
            return told

    def manager(self, **more: str) -> ServiceNotifier:
        """
        A manager that tells it there.
        """
        return ServiceNotifier({"NOTIFY_SOCKET": str(self.path), **more}, self.clock)

    def test_ready_and_reloading_are_sent(self) -> None:
        """
        Ready, with a status; reloading, with the time.
        """
        manager = self.manager()
        manager.ready("answering")
        manager.reloading()
        ready, reloading = self.heard()
        self.assertEqual("READY=1\nSTATUS=answering", ready)
        self.assertRegex(reloading, r"^RELOADING=1\nMONOTONIC_USEC=\d+$")

    def test_watchdog_is_notified_twice_per_interval(self) -> None:
        """
        It hears of us twice as often as it must, until we stop.
        """
        manager = self.manager(WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid()))
        manager.startService()
        self.clock.pump([1.0] * 16)
        self.assertEqual(["WATCHDOG=1"] * 4, self.heard())
        manager.stopService()
        self.clock.pump([1.0] * 16)
        self.assertEqual([], self.heard())

    def test_watchdog_of_another_process_is_ignored(self) -> None:
        """
        Is none of ours; neither is one that makes no sense.
        """
        for more in ({"WATCHDOG_USEC": "10", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}):
            self.manager(**more).startService()
        self.assertEqual(([], []), (self.clock.getDelayedCalls(), self.heard()))

    def test_nothing_is_sent_without_systemd(self) -> None:
        """
        Nothing is told, and nothing fails; not even if nobody listens any more.
        """
        silent = ServiceNotifier({}, self.clock)
        silent.ready("answering")
        ServiceNotifier({"NOTIFY_SOCKET": str(self.path) + "gone"}, self.clock).ready("answering")
        ServiceNotifier({"NOTIFY_SOCKET": "@nobody/listens"}, self.clock).ready("answering")
        self.assertEqual([], self.heard())


class InheritedTests(SynchronousTestCase):
    """
    sd_listen_fds(3).
    """

    def test_no_sockets_without_systemd_or_for_another_process(self) -> None:
        """
        Without systemd, or if they are somebody else's.
        """
        for environ in (
            {},
            {"LISTEN_FDS": "2", "LISTEN_PID": "1"},
            {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        ):
            self.assertEqual(([], []), inherited(environ))
            self.assertEqual([], inherited_for_tls(environ))

    def test_sockets_are_sorted_by_transport(self) -> None:
        """
        UDP and TCP are told apart; whatever else there is is closed.
        """
        program = """
import os, socket, sys
made = [socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)]
for number, one in enumerate(made):
    os.dup2(one.fileno(), 50 + number)
for number in range(3):
    os.dup2(50 + number, 3 + number)
from dotproxy.service.systemd import inherited
datagrams, streams = inherited({"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid())})
print([one.fileno() for one in datagrams], [one.fileno() for one in streams], [one.getblocking() for one in streams])
for one in made: one.detach()
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        self.assertEqual("[4] [3] [False]\n", done.stdout)

    def test_sockets_named_tls_are_for_tls(self) -> None:
        """
        TCP sockets that are named "tls" are for TLS, and for nothing else.
        """
        program = """
import os, socket, sys
made = [socket.socket(), socket.socket(), socket.socket(type=socket.SOCK_DGRAM)]
for number, one in enumerate(made):
    os.dup2(one.fileno(), 50 + number)
for number in range(3):
    os.dup2(50 + number, 3 + number)
from dotproxy.service.systemd import inherited, inherited_for_tls
environ = {"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "tls:dotproxy.socket:tls"}
datagrams, streams = inherited(environ)
tls = inherited_for_tls(environ)
print([one.fileno() for one in datagrams], [one.fileno() for one in streams], [one.fileno() for one in tls])
for one in made: one.detach()
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        self.assertEqual("[] [4] [3]\n", done.stdout)

    def test_initial_environment_is_used(self) -> None:
        """
        Is known whatever was taken out of it since.
        """
        if not Path("/proc/self/environ").exists():
            self.assertEqual(dict(os.environ), initial_environment())
            return
        program = "import os; os.environ.pop('SOME'); from dotproxy.service.systemd import *; print(initial_environment()['SOME'])"
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "SOME": "thing"},
        )
        self.assertEqual("thing\n", done.stdout)
