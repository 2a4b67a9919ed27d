"""
Notices that the machine has slept, or has moved to another network.

Decides when upstreams drop their connections and forget their failures: when CLOCK_BOOTTIME has run ahead of
CLOCK_MONOTONIC (sleep); when the kernel reports changed addresses or routes (rtnetlink(7)), and an upstream is now
reached from another source address, or was down.
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

from dotproxy.downstream.sockets import endpoint_of
from dotproxy.service.reactor import IServiceReactor

#: Seconds between two comparisons of the clocks.
INTERVAL = 1.0
#: A difference of more than so many seconds counts as sleep.
ASLEEP = 5.0

#: Seconds after the first of a burst of reports before source addresses are compared.
SETTLED = 0.2

#: RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (rtnetlink(7)).
_GROUPS = 0x10 | 0x40 | 0x100 | 0x400

log = Logger("dotproxy")


class NetworkUser(Protocol):
    """
    An upstream, as this module needs it.
    """

    label: str

    @property
    def tier(self) -> int:
        """
        0 is up, 2 is down.
        """

    def network_moved(self) -> None:
        """
        Drop connections and forget failures.
        """


def _clock_with_sleep() -> Callable[[], float]:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time if boottime is None else partial(time.clock_gettime, boottime)


#: Returns seconds of a clock that counts while the machine sleeps (CLOCK_BOOTTIME; the wall clock without it).
boottime = _clock_with_sleep()


def source_for(host: str) -> str:
    """
    Return the source address for packets to ``host``, "" if there is no route; nothing is sent.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 853))
            return endpoint_of(probe).host
    except OSError:
        return ""


class NetworkMonitor(Service):
    """
    Owns: the timer that compares the clocks, and a netlink socket where there is one.
    Tells: upstreams (``network_moved``), and ``on_move``.

    ``upstreams`` are pairs of an upstream and its addresses.
    """

    def __init__(
        self,
        upstreams: Sequence[tuple[NetworkUser, Sequence[str]]],
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
        self._reports: _NetlinkReports | None = None

    def startService(self) -> None:
        """
        Start watching.
        """
        super().startService()
        self._ahead = self._boottime() - self._monotonic()
        self._sources = self._all_sources()
        self._timer = self._clock.callLater(INTERVAL, self._compare_clocks)
        try:
            self._reports = _NetlinkReports(self.network_changed, self._reactor)
        except (OSError, AttributeError):  # not Linux, or not permitted: only the clocks are compared
            self._reports = None
        else:
            self._reports.startReading()

    def stopService(self) -> None:
        """
        Stop watching.
        """
        super().stopService()
        for timer in (self._timer, self._settling):
            if timer is not None and timer.active():
                timer.cancel()
        if self._reports is not None:
            self._reports.close()

    def network_changed(self) -> None:
        """
        Compare source addresses after ``SETTLED`` seconds; called when the kernel reports a change.
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
class _NetlinkReports:
    """
    A netlink socket as a Twisted reader; it tells ``changed`` of every report.
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
        Receive reports.
        """
        self._reactor.addReader(self)

    def fileno(self) -> int:
        """
        Return the descriptor; called by Twisted.
        """
        return self._socket.fileno()

    def doRead(self) -> None:
        """
        Read all reports; their contents do not matter, as source addresses are compared; called by Twisted.
        """
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: reports were lost, so something has changed
            pass
        self._changed()

    def connectionLost(self, reason: object) -> None:
        """
        Close the socket; called by Twisted when the reactor stops.
        """
        self.close()

    def logPrefix(self) -> str:
        """
        Return the prefix of log lines; called by Twisted.
        """
        return "network"

    def close(self) -> None:
        """
        Close the socket.
        """
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()
