"""
A worker slot: one worker process, and its successor when it has ended.

Decides when a process is started, and when one that does not reply is killed.  Which sockets a worker serves, and which
worker takes over those of another, is decided by ``supervisor``.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol, ServerFactory
from twisted.logger import Logger, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from dotproxy.policy.health import MAX_DELAY_IDLE, redial_delay
from dotproxy.service.reactor import IServiceReactor
from dotproxy.service.workers.channel import CHANNEL, SOCKETS, Arguments, Channel, Gone, Refused
from dotproxy.telemetry.report import NO_WORKER, Report, after_exit, from_data, sum_of

log = Logger("dotproxy")

#: A process that served for so many seconds counts as healthy: its successor is started at once.
SETTLED = 10.0
#: Checks (one a second) without a reply after which a process is killed; and while it starts.
MISSED_CHECKS, MISSED_CHECKS_AT_START = 10, 60

#: Prefixes of environment variables that workers do not get.
_NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "DOTPROXY_")


class SlotObserver(Protocol):
    """
    What a slot tells its supervisor.
    """

    def first_message(self, slot: WorkerSlot) -> Arguments:
        """
        Return the arguments of ``begin``, the first request to a new process; see ``worker``.
        """

    def on_ready(self, slot: WorkerSlot) -> None:
        """
        Called when the process serves.
        """

    def on_findings(self, slot: WorkerSlot, given: Arguments) -> None:
        """
        Called with findings of the process; see ``findings``.
        """

    def on_exit(self, slot: WorkerSlot) -> None:
        """
        Called when the process has ended, and a successor will be started.
        """


class WorkerSlot:
    """
    One worker process at a time.

    Owns: the process, its channel, the timer of its successor.
    Told by: its supervisor.
    Tells: ``observer``.

    ``sockets`` are passed to each process, in this order.  ``pid`` is that of the present or last process; ``report``
    is its last report, ``past_report`` the sum of what earlier processes counted; ``io_mode`` says how it reads
    datagrams.
    """

    def __init__(
        self,
        name: str,
        sockets: Sequence[socket.socket],
        reactor: IServiceReactor,
        observer: SlotObserver,
    ) -> None:
        self.name = name
        self.is_serving = False
        self.pid = 0
        self.io_mode = ""
        self.restarts = 0
        self.report = Report(not_ready=NO_WORKER)
        self.past_report = after_exit(self.report)
        self._sockets = sockets
        self._reactor = reactor
        self._observer = observer
        self._channel: Channel | None = None
        self._process: IProcessTransport | None = None
        self._started_at = 0.0
        self._failures = 0
        self._missed_checks = 0
        self._timer: IDelayedCall | None = None
        self._is_stopping = False
        self._stopped: Deferred[None] | None = None

    def start(self) -> None:
        """
        Start a process.
        """
        ours, theirs = socket.socketpair()
        self._started_at = self._reactor.seconds()
        self._missed_checks = 0
        with ours, theirs, Path(os.devnull).open("rb") as null:
            files: dict[int, int | str] = {0: null.fileno(), 1: "r", 2: "r", CHANNEL: theirs.fileno()}
            files |= {SOCKETS + number: bound.fileno() for number, bound in enumerate(self._sockets)}
            command = [sys.executable, "-P", "-X", "faulthandler", "-m", "dotproxy.service.workers.worker"]
            try:
                self._process = self._reactor.spawnProcess(
                    _WorkerProcess(self), sys.executable, command, env=_environment(), childFDs=files
                )
            except OSError as error:
                self.exited(f"it cannot be started: {error}")
                return
            self.pid = int(self._process.pid or 0)
            self._channel = self._connect(ours)
        self.ask("begin", self._observer.first_message(self)).addCallbacks(self._ready, self._begin_failed)

    def check(self) -> None:
        """
        Ask the process for a report, or kill it if it has not replied for too long; to be called each second.
        """
        if self._process is None:
            return
        if self._missed_checks:
            self._missed_checks += 1
            if self._missed_checks > (MISSED_CHECKS if self.is_serving else MISSED_CHECKS_AT_START):
                log.error("worker {name} ({pid}) does not respond: it is killed", name=self.name, pid=self.pid)
                self.kill()
        elif self.is_serving:
            self.update()

    def update(self) -> Deferred[None]:
        """
        Request a report; return a Deferred that fires when it is here, or cannot be had.
        """

        def reported(data: Arguments) -> None:
            self.report = from_data(data)

        def ignore(failure: Failure) -> None:
            failure.trap(Gone, Refused)

        return self.ask("report").addCallbacks(reported, ignore)

    def whole_report(self) -> Report:
        """
        Return the last report of the process, and what earlier processes counted, in one.
        """
        current = [self.report] if self.is_serving else [after_exit(self.report)]
        return sum_of([self.past_report, *current])

    def ask(self, name: str, given: Arguments | None = None) -> Deferred[Any]:
        """
        Send a request (see ``worker``); return a Deferred of the reply.

        It fails with ``Gone`` or ``Refused``.
        """
        if self._channel is None:
            return fail(Gone())

        def replied(result: Any) -> Any:
            self._missed_checks = 0
            return result

        self._missed_checks = self._missed_checks or 1
        return self._channel.ask(name, given).addBoth(replied)

    def tell(self, name: str, given: Arguments | None = None) -> None:
        """
        Send a notice, if there is a process.
        """
        if self._channel is not None:
            self._channel.tell(name, given)

    def stop(self) -> Deferred[None]:
        """
        Have the process answer outstanding queries and end; return a Deferred that fires when it has ended.
        """
        self._is_stopping = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._process is None:
            return succeed(None)
        self.tell("stop")
        self._stopped = Deferred()
        return self._stopped

    def kill(self) -> None:
        """
        Kill the process.
        """
        if self._process is not None:
            with suppress(ProcessExitedAlready):  # its last output is still being read
                self._process.signalProcess("KILL")

    def exited(self, how: str) -> None:
        """
        Start a successor, at once or after a back-off; called when the process has ended.
        """
        lived = self._reactor.seconds() - self._started_at
        was_serving = self.is_serving
        self.is_serving = False
        self._process = self._channel = None
        self.past_report = sum_of([self.past_report, after_exit(self.report)])
        self.report = Report(not_ready=NO_WORKER)
        if self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)
        if self._is_stopping:
            return
        self._failures = 0 if was_serving and lived >= SETTLED else self._failures + 1
        # The first failure causes no delay.
        wait = redial_delay(self._failures - 1, 0.0, MAX_DELAY_IDLE)
        log.error(
            "worker {name} ({pid}) has ended: {how}; the next is started {when}",
            name=self.name,
            pid=self.pid,
            how=how,
            when=f"in {wait:.1f} s" if wait else "at once",
        )
        self.restarts += 1
        self._observer.on_exit(self)
        self._timer = self._reactor.callLater(wait, self.start)

    def _connect(self, ours: socket.socket) -> Channel:
        def on_findings(given: Arguments) -> None:
            self._observer.on_findings(self, given)

        channel = Channel({"log": self._log, "found": on_findings}, lambda: None)
        factory = Factory.forProtocol(lambda: channel)
        factory.noisy = False
        self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, cast(ServerFactory, factory))
        return channel

    def _ready(self, io_mode: str | None) -> None:
        self.is_serving = True
        self.io_mode = io_mode or ""
        self.report = Report()
        self._observer.on_ready(self)

    def _begin_failed(self, failure: Failure) -> None:
        if failure.check(Gone):
            return  # ``exited`` follows
        log.error("worker {name} cannot serve: {reason}", name=self.name, reason=failure.getErrorMessage())
        self.kill()

    def _log(self, given: Arguments) -> None:
        event = eventFromJSON(given["event"])
        event["log_format"] = f"worker {self.name}: {event.get('log_format') or ''}"
        event["worker"] = self.name
        globalLogPublisher(event)


class _WorkerProcess(ProcessProtocol):
    """
    Logs what a process prints, as the interpreter does when it crashes, and notices its end.
    """

    def __init__(self, slot: WorkerSlot) -> None:
        self._slot = slot
        self._partial_line = b""

    def outReceived(self, data: bytes) -> None:
        """
        Log each whole line; called by Twisted.
        """
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        for line in lines:
            log.warn("worker {name} printed: {line}", name=self._slot.name, line=line.decode("utf-8", "replace"))
        self._partial_line = self._partial_line[-1000:]

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """
        Tell the slot how the process ended; called by Twisted when all its output was read.
        """
        number = getattr(reason.value, "signal", None)
        self._slot.exited(f"signal {number}" if number else f"exit code {getattr(reason.value, 'exitCode', '?')}")


def _environment() -> dict[str, str]:
    """
    Return the environment of a worker: ours without ``_NOT_FOR_WORKERS``, and with our module search path.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_FOR_WORKERS)}
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
