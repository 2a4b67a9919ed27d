"""
The protocol with systemd: notifications (sd_notify(3)), and sockets that it passes (sd_listen_fds(3)).

Decides how environment variables are read and notifications written.  Without systemd everything here does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

_FIRST_DESCRIPTOR = 3

#: The name of sockets for DNS over TLS (systemd.socket(5), FileDescriptorName=).
_TLS_NAME = "tls"


class ServiceNotifier(Service):
    """
    Sends notifications to systemd, and resets its watchdog while the reactor runs.
    """

    def __init__(self, environ: Mapping[str, str], clock: IReactorTime) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._clock = clock
        # Half of its timeout; WATCHDOG_PID of another process means that there is none for us.
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._interval = int(microseconds) / 2e6 if microseconds.isdigit() and is_ours else 0.0
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """
        Reset the watchdog regularly, if there is one.
        """
        super().startService()
        if self._interval and self._address:
            self._reset_watchdog()

    def stopService(self) -> None:
        """
        Stop resetting the watchdog.
        """
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def tell(self, *lines: str) -> None:
        """
        Send lines such as ``READY=1``.
        """
        notify(self._address, *lines)

    def ready(self, status: str) -> None:
        """
        Tell that clients are served, or that a reload has ended; ``status`` is shown by ``systemctl status``.
        """
        self.tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """
        Tell that a reload has begun; ``ready`` ends it.
        """
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def _reset_watchdog(self) -> None:
        self.tell("WATCHDOG=1")
        self._timer = self._clock.callLater(self._interval, self._reset_watchdog)


def notify(address: str, *lines: str) -> None:
    """
    Send lines to systemd at ``address`` (``NOTIFY_SOCKET``); do nothing if that is empty.
    """
    if not address:
        return
    address = "\0" + address[1:] if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto("\n".join(lines).encode(), address)


def initial_environment() -> dict[str, str]:
    """
    Return the environment that this process was started with, from /proc where there is one.

    Twisted removes LISTEN_* from ``os.environ`` as soon as its endpoints are imported.
    """
    try:
        pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in (pair.partition(b"=") for pair in pairs)}


def inherited(environ: Mapping[str, str]) -> tuple[list[socket.socket], list[socket.socket]]:
    """
    Return the UDP sockets and the listening TCP sockets for plain DNS that systemd has passed, non-blocking.
    """
    passed = _passed(environ, are_for_tls=False)
    return (
        [one for one in passed if one.type == socket.SOCK_DGRAM],
        [one for one in passed if one.type != socket.SOCK_DGRAM],
    )


def inherited_for_tls(environ: Mapping[str, str]) -> list[socket.socket]:
    """
    Return the listening TCP sockets for DNS over TLS: those with ``FileDescriptorName=tls``.
    """
    return [one for one in _passed(environ, are_for_tls=True) if one.type != socket.SOCK_DGRAM]


def _passed(environ: Mapping[str, str], *, are_for_tls: bool) -> list[socket.socket]:
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    passed: list[socket.socket] = []
    for number in range(int(count)):
        if (number < len(names) and names[number] == _TLS_NAME) != are_for_tls:
            continue
        os.set_inheritable(_FIRST_DESCRIPTOR + number, False)
        one = socket.socket(fileno=_FIRST_DESCRIPTOR + number)
        one.setblocking(False)
        if one.family in (socket.AF_INET, socket.AF_INET6):
            passed.append(one)
        else:
            one.close()
    return passed
