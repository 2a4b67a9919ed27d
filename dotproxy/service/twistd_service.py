"""
The service that twistd runs: one proxy, and what belongs to a process that is the proxy's alone.

Decides what a failure to listen means for the process (exit code 1), what signals mean (SIGHUP: reload; a second
SIGTERM or SIGINT: stop without draining), and when privileges are given up.  As a library dotproxy does none of this.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Protocol

from twisted.application.service import IServiceCollection, MultiService
from twisted.logger import Logger

from dotproxy.downstream.sockets import CannotBind
from dotproxy.errors import ConfigError
from dotproxy.service.drop_privileges import Confinement
from dotproxy.service.gc_tuning import freeze
from dotproxy.service.reactor import IServiceReactor
from dotproxy.service.systemd import notify

log = Logger("dotproxy")


class RunningProxy(Protocol):
    """
    A ``Proxy``, or a ``Supervisor`` of several processes.
    """

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """
        Start and stop with ``parent``.
        """

    def reload(self) -> list[str]:
        """
        Reload the configuration; return a phrase for each change.
        """

    def stop_now(self) -> None:
        """
        Fail outstanding queries at once.
        """


class TwistdService(MultiService):
    """
    Runs ``proxy`` as the only service of a process.

    Told by: twistd, signals.
    Tells: ``proxy``, ``confinement`` (``bound``, ``serving``), None where the process is not ours to confine.
    """

    def __init__(self, proxy: RunningProxy, reactor: IServiceReactor, confinement: Confinement | None = None) -> None:
        super().__init__()
        self.proxy = proxy
        self._reactor = reactor
        self._confinement = confinement
        self._is_bound = False
        proxy.setServiceParent(self)
        if confinement is not None:
            reactor.callWhenRunning(confinement.serving)
        reactor.callWhenRunning(freeze)
        reactor.callWhenRunning(self._handle_signals)

    def privilegedStartService(self) -> None:
        """
        Bind every listener; end the process with exit code 1 if one cannot be bound.
        """
        try:
            super().privilegedStartService()
        except CannotBind as problem:
            lines = str(problem).splitlines()
            for line in lines:
                log.critical("{line}", line=line)
            notify(os.environ.get("NOTIFY_SOCKET", ""), f"STATUS={'; '.join(lines)}")
            raise SystemExit(1) from None
        self._is_bound = True
        if self._confinement is not None:
            self._confinement.bound()

    def startService(self) -> None:
        """
        Serve clients; bind first if nobody has called ``privilegedStartService``, as `twist` does not.
        """
        if not self._is_bound:
            self.privilegedStartService()
        super().startService()

    def _handle_signals(self) -> None:
        reactor = self._reactor

        def on_shutdown() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: reactor.callFromThread(self.proxy.stop_now))

        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(self._reload))
        reactor.addSystemEventTrigger("before", "shutdown", on_shutdown)

    def _reload(self) -> None:
        with suppress(ConfigError):  # logged already
            self.proxy.reload()
