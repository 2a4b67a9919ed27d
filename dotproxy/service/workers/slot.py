"""
A worker's place: the process that is in it, and the next one when that has ended.

Decides when a process is started, when it is taken for dead though it runs, and how it is spoken to.  What a place
serves, and who stands in for it, is ``supervisor``'s.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from dotproxy.policy.health import CAP_UNASKED, delay
from dotproxy.service.workers.channel import CHANNEL, SOCKETS, Channel, Gone, Refused
from dotproxy.telemetry.report import NO_WORKER, Report, after_exit, from_data, sum_of

log = Logger("dotproxy")

#: A process that has served for so many seconds was all right; the next one is started at once.
SETTLED = 10.0
#: One that says nothing for so many looks is taken for dead; so many while it starts.
SILENT, SILENT_AT_START = 10, 60

#: How variables begin that are for the supervisor alone.
_NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "DOTPROXY_")


class WorkerSlot:
    """
    Told by: its supervisor.
    Tells: ``came`` when a process serves, ``went`` when it does not any more, ``found`` of what it found out
    (``findings``).

    ``beginning`` returns what a worker is told first; ``sockets`` are handed over to it, in the order it is told of
    them.  ``pid`` is its process, or was; ``report`` holds what was last known of that, ``before`` what is left of
    those before it.
    """

    def __init__(
        self,
        name: str,
        sockets: Sequence[socket.socket],
        reactor: Any,
        *,
        beginning: Callable[[WorkerSlot], dict[str, Any]],
        on_ready: Callable[[WorkerSlot], None],
        found: Callable[[WorkerSlot, dict[str, Any]], None],
        on_exit: Callable[[WorkerSlot], None],
    ) -> None:
        self.name = name
        self.is_serving = False
        self.pid = 0
        self.manner = ""
        self.restarts = 0
        self.report = Report(not_ready=NO_WORKER)
        self.before = after_exit(self.report)
        self._sockets = sockets
        self._reactor = reactor
        self._beginning = beginning
        self._came = on_ready
        self._found = found
        self._went = on_exit
        self._channel: Channel | None = None
        self._process: Any = None
        self._began = 0.0
        self._failures = 0
        self._unanswered = 0
        self._timer: IDelayedCall | None = None
        self._is_leaving = False
        self._left: Deferred[None] | None = None

    def start(self) -> None:
        """
        Start a process.
        """
        ours, theirs = socket.socketpair()
        self._began = self._reactor.seconds()
        self._unanswered = 0
        with ours, theirs, Path(os.devnull).open("rb") as null:
            files: dict[int, Any] = {0: null.fileno(), 1: "r", 2: "r", CHANNEL: theirs.fileno()}
            files |= {SOCKETS + number: bound.fileno() for number, bound in enumerate(self._sockets)}
            command = [sys.executable, "-P", "-X", "faulthandler", "-m", "dotproxy.service.workers.worker"]
            try:
                self._process = self._reactor.spawnProcess(
                    _Process(self), command[0], command, env=_environment(), childFDs=files
                )
            except OSError as error:
                self.exited(f"it cannot be started: {error}")
                return
            self.pid = self._process.pid
            channel = self._channel = Channel(
                {"log": self._log, "found": lambda given: self._found(self, given)}, lambda: None
            )
            factory: Any = Factory.forProtocol(lambda: channel)
            factory.noisy = False
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
        self.ask("begin", self._beginning(self)).addCallbacks(self._serves, self._cannot)

    def look(self) -> None:
        """
        See whether it is there, and have it report; to be called each second.
        """
        if self._process is None:
            return
        if self._unanswered:
            self._unanswered += 1
            if self._unanswered > (SILENT if self.is_serving else SILENT_AT_START):
                log.error("worker {name} ({pid}) says nothing any more, and is ended", name=self.name, pid=self.pid)
                self.kill()
        elif self.is_serving:
            self.update()

    def update(self) -> Deferred[None]:
        """
        Have it report; the Deferred fires when it has, or cannot.
        """

        def reported(data: dict[str, Any]) -> None:
            self.report = from_data(data)

        def cannot(failure: Failure) -> None:
            failure.trap(Gone, Refused)

        return self.ask("report").addCallbacks(reported, cannot)

    def whole_report(self) -> Report:
        """
        Return what is known of it and of those before it.
        """
        current = [self.report] if self.is_serving else [after_exit(self.report)]
        return sum_of([self.before, *current])

    def ask(self, name: str, given: dict[str, Any] | None = None) -> Deferred[Any]:
        """
        Ask it to do something; see ``worker``.

        The Deferred fails with ``Gone`` or ``Refused``.
        """
        if self._channel is None:
            return fail(Gone())

        def answered(result: Any) -> Any:
            self._unanswered = 0
            return result

        self._unanswered = self._unanswered or 1
        return self._channel.ask(name, given).addBoth(answered)

    def tell(self, name: str, given: dict[str, Any] | None = None) -> None:
        """
        Tell it to.
        """
        if self._channel is not None:
            self._channel.tell(name, given)

    def leave(self) -> Deferred[None]:
        """
        End it, after it has answered what is outstanding; return a Deferred that fires when it is gone.
        """
        self._is_leaving = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._process is None:
            return succeed(None)
        self.tell("stop")
        self._left = Deferred()
        return self._left

    def kill(self) -> None:
        """
        End it now.
        """
        if self._process is not None:
            with suppress(ProcessExitedAlready):  # what it has said is still being read
                self._process.signalProcess("KILL")

    def exited(self, how: str) -> None:
        """
        Called when its process has ended.
        """
        lived = self._reactor.seconds() - self._began
        was_serving = self.is_serving
        self.is_serving = False
        self._process = self._channel = None
        self.before = sum_of([self.before, after_exit(self.report)])
        self.report = Report(not_ready=NO_WORKER)
        if self._left is not None:
            left, self._left = self._left, None
            left.callback(None)
        if self._is_leaving:
            return
        self._failures = 0 if was_serving and lived >= SETTLED else self._failures + 1
        # The first of them is no reason to wait.
        wait = delay(self._failures - 1, 0.0, CAP_UNASKED)
        log.error(
            "worker {name} ({pid}) has ended: {how}; the next is started {when}",
            name=self.name,
            pid=self.pid,
            how=how,
            when=f"in {wait:.1f} s" if wait else "at once",
        )
        self.restarts += 1
        self._went(self)
        self._timer = self._reactor.callLater(wait, self.start)

    def _serves(self, result: Any) -> None:
        self.is_serving = True
        self.manner = str(result or "")
        self.report = Report()
        self._came(self)

    def _cannot(self, failure: Failure) -> None:
        if failure.check(Gone):
            return  # which is told by its end
        log.error("worker {name} cannot serve: {reason}", name=self.name, reason=failure.getErrorMessage())
        self.kill()

    def _log(self, given: dict[str, Any]) -> None:
        event = eventFromJSON(given["event"])
        event["log_format"] = f"worker {self.name}: {event.get('log_format') or ''}"
        event["worker"] = self.name
        globalLogPublisher(event)


class _Process(ProcessProtocol):
    """
    What a process says outside its log: why the interpreter could not go on, for instance.
    """

    def __init__(self, place: WorkerSlot) -> None:
        self._place = place
        self._said = b""

    def outReceived(self, data: bytes) -> None:
        """
        Called with octets.
        """
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            log.warn("worker {name} says: {line}", name=self._place.name, line=line.decode("utf-8", "replace"))
        self._said = self._said[-1000:]

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """
        Called when it has ended, and all it said was read.
        """
        ending: Any = reason.value
        number = getattr(ending, "signal", None)
        self._place.exited(f"signal {number}" if number else f"exit code {getattr(ending, 'exitCode', '?')}")


def _environment() -> dict[str, str]:
    """
    Ours, without what is for the supervisor alone; modules are found where we find them.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_FOR_WORKERS)}
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
