"""
Whether the machine has another network than a moment ago, or slept.

Decides when upstreams are told that their connections are worth nothing and their failures history: when a clock that
counts sleep has run ahead of one that does not; when the kernel reports other addresses or routes, and an upstream is
now reached from another address, or was down.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

from dotproxy.service.reactor import IServiceReactor

#: How often the clocks are compared, and how far apart is asleep, in seconds.
INTERVAL = 1.0
ASLEEP = 5.0

#: Changes come in bursts; this long after the first of one they are looked at.
SETTLED = 0.2

#: rtnetlink's groups for addresses and routes, IPv4 and IPv6.
_GROUPS = 0x10 | 0x40 | 0x100 | 0x400

log = Logger("dotproxy")


class Reached(Protocol):
    """
    An upstream, as far as networks are concerned.
    """

    label: str

    @property
    def tier(self) -> int:
        """
        2 is down.
        """

    def network_moved(self) -> None:
        """
        Connections are worth nothing, failures are history.
        """


def _clock_with_sleep() -> Callable[[], float]:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time if boottime is None else partial(time.clock_gettime, boottime)


#: Returns seconds on a clock that goes on while the machine sleeps.
boottime = _clock_with_sleep()


def source_for(host: str) -> str:
    """
    Return the address from which ``host`` would be reached, "" if it would not; nothing is sent.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 853))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


class NetworkMonitor(Service):
    """
    Owns: the timer that compares the clocks, and the kernel's reports, where there are any.
    Tells: upstreams (``network_moved``), and whoever else remembers failures (``moved``).
    """

    def __init__(
        self,
        upstreams: Sequence[tuple[Reached, Sequence[str]]],
        *,
        on_move: Callable[[], None],
        reactor: IServiceReactor,
        monotonic: Callable[[], float],
        boottime: Callable[[], float] = boottime,
        source: Callable[[str], str] = source_for,
    ) -> None:
        self._upstreams = [(upstream, tuple(hosts)) for upstream, hosts in upstreams]
        self._on_move = on_move
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._monotonic = monotonic
        self._boottime = boottime
        self._source = source
        self._sources: list[tuple[str, ...]] = []
        self._ahead = 0.0
        self._timer: IDelayedCall | None = None
        self._settling: IDelayedCall | None = None
        self._reports: _Reports | None = None

    def startService(self) -> None:
        """
        Watch.
        """
        super().startService()
        self._ahead = self._boottime() - self._monotonic()
        self._sources = self._all_sources()
        self._timer = self._clock.callLater(INTERVAL, self._compare_clocks)
        try:
            self._reports = _Reports(self.network_changed, self._reactor)
        except (OSError, AttributeError):  # not Linux, or not allowed: the clocks have to do
            self._reports = None
        else:
            self._reports.startReading()

    def stopService(self) -> None:
        """
        Watch no more.
        """
        super().stopService()
        for timer in (self._timer, self._settling):
            if timer is not None and timer.active():
                timer.cancel()
        if self._reports is not None:
            self._reports.close()

    def network_changed(self) -> None:
        """
        The kernel reports something: look when it has settled.
        """
        if self._settling is None:
            self._settling = self._clock.callLater(SETTLED, self._compare_sources)

    def _compare_clocks(self) -> None:
        self._timer = self._clock.callLater(INTERVAL, self._compare_clocks)
        ahead = self._boottime() - self._monotonic()
        slept, self._ahead = ahead - self._ahead, ahead
        if slept > ASLEEP:
            log.info("the machine slept for {slept} s: all upstreams are dialled anew", slept=round(slept))
            self._on_move()
            for upstream, _ in self._upstreams:
                upstream.network_moved()

    def _compare_sources(self) -> None:
        self._settling = None
        before, self._sources = self._sources, self._all_sources()
        if before != self._sources:
            self._on_move()
        for (upstream, _), old, new in zip(self._upstreams, before, self._sources, strict=True):
            if old != new:
                log.info("{label} is now reached over another network", label=upstream.label)
            if old != new or upstream.tier == 2:
                upstream.network_moved()

    def _all_sources(self) -> list[tuple[str, ...]]:
        return [tuple(map(self._source, hosts)) for _, hosts in self._upstreams]


@implementer(IReadDescriptor)
class _Reports:
    """
    A netlink socket, as a reader of Twisted's.
    """

    def __init__(self, changed: Callable[[], None], reactor: IServiceReactor) -> None:
        self._changed = changed
        self._reactor = reactor
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            self._socket.bind((0, _GROUPS))
        except OSError:
            self._socket.close()
            raise

    def startReading(self) -> None:
        """
        Listen to the kernel.
        """
        self._reactor.addReader(self)

    def fileno(self) -> int:
        """
        Called by Twisted.
        """
        return self._socket.fileno()

    def doRead(self) -> None:
        """
        Take what there is; what it says in particular is found out by other means.
        """
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        except OSError:  # more came than fits (ENOBUFS): something has changed in any case
            pass
        self._changed()

    def connectionLost(self, reason: object) -> None:
        """
        Called by Twisted when it stops.
        """
        self.close()

    def logPrefix(self) -> str:
        """
        Called by Twisted.
        """
        return "network"

    def close(self) -> None:
        """
        Listen no more.
        """
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()
