"""
A worker: one of the processes of a proxy with several.

Decides how the process starts and ends, and which commands it takes from its supervisor.  It reads no configuration
file and no environment variables of its own, and listens only on sockets that were passed to it.  When its supervisor
has ended it answers outstanding queries and ends, too.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import cast

from twisted.internet.protocol import Factory, ServerFactory
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, eventAsJSON, globalLogBeginner

from dotproxy.config.load import load_text
from dotproxy.errors import ConfigError
from dotproxy.service.assembly import Assembly
from dotproxy.service.gc_tuning import freeze
from dotproxy.service.listening import ListeningSockets
from dotproxy.service.network_monitor import boottime
from dotproxy.service.privileges import FILES, give_up
from dotproxy.service.proxy import WorkerShare
from dotproxy.service.reactor import IServiceReactor
from dotproxy.service.workers.channel import CHANNEL, FOR_TLS, SOCKETS, Arguments, Channel, Command
from dotproxy.service.workers.findings import Finding, SharedEvents, learn
from dotproxy.telemetry.log_limit import LogLimit
from dotproxy.telemetry.report import as_data


class Worker:
    """
    The process's end of the channel.

    Told by: its supervisor, over ``channel``.
    Tells: its supervisor (``log``, ``found``).
    """

    def __init__(self, reactor: IServiceReactor) -> None:
        self._reactor = reactor
        self.channel = Channel({"begin": self.begin, "stop": lambda given: self.stop()}, self.stop)
        self._is_stopping = False
        self._dropped = 0
        self._log = Logger("dotproxy", observer=cast(ILogObserver, self.log))

    def begin(self, given: Arguments) -> str:
        """
        Serve clients; return how datagrams are read and written (``Proxy.io_mode``).

        ``config`` is a configuration as TOML, ``name`` the worker's, ``secret`` hexadecimal; ``sockets`` has an entry
        for each socket that was passed, in order: the name of the worker that reads it, "" for a listening one,
        ``FOR_TLS`` for one that listens for DNS over TLS.
        """
        config = load_text(given["config"]).config
        share = _receive_share(given["name"], bytes.fromhex(given["secret"]), given["sockets"])
        events = SharedEvents(self._send_findings, debug=config.is_debug, clock=self._reactor)
        assembly = Assembly(config, self._reactor, events, share)
        self.channel.commands |= _commands(assembly)
        self._reactor.addSystemEventTrigger("before", "shutdown", assembly.proxy.stopService)
        assembly.proxy.startService()
        freeze()
        return assembly.proxy.io_mode

    def log(self, event: LogEvent) -> None:
        """
        Send a log event to the supervisor, but none of Twisted's own at level info: the supervisor logs those once.

        While the supervisor does not read fast enough, events are dropped and counted.
        """
        if not str(event.get("log_namespace", "")).startswith("dotproxy") and event.get("log_level") == LogLevel.info:
            return
        dropped, self._dropped = self._dropped, 0
        if dropped and self.channel.has_room:
            self._log.warn("{count} log lines were dropped: the supervisor did not take them in time", count=dropped)
            dropped = 0
        if not self.channel.tell_if_room("log", {"event": eventAsJSON(event)}):
            self._dropped = dropped + 1

    def stop(self) -> None:
        """
        Answer outstanding queries and end; further calls do nothing.

        Called on the supervisor's request, on SIGTERM, and when the supervisor has ended.
        """
        if not self._is_stopping and self._reactor.running:
            self._is_stopping = True
            self._reactor.stop()

    def _send_findings(self, findings: list[Finding]) -> None:
        self.channel.tell_if_room("found", {"findings": findings})


def _receive_share(name: str, secret: bytes, owners: list[str]) -> WorkerShare:
    """
    Return what this process serves; ``owners`` as ``sockets`` of ``Worker.begin``.
    """
    sockets: dict[str, list[socket.socket]] = {"": [], FOR_TLS: [], name: []}
    for number, owner in enumerate(owners):
        sockets.setdefault(owner, []).append(_passed_socket(SOCKETS + number))
    own = ListeningSockets(sockets.pop(name), sockets.pop(""), sockets.pop(FOR_TLS))
    return WorkerShare(name, secret, own, spare=sockets)


def _passed_socket(descriptor: int) -> socket.socket:
    """
    Return a socket that the supervisor has passed, non-blocking, and not passed on to child processes.
    """
    bound = socket.socket(fileno=descriptor)
    bound.setblocking(False)
    os.set_inheritable(descriptor, False)
    return bound


def _commands(assembly: Assembly) -> dict[str, Command]:
    """
    Return the commands of a worker that serves, by name.
    """
    proxy, failures = assembly.proxy, assembly.forwarder.failures

    def learn_from(given: Arguments) -> None:
        learn(given["findings"], assembly.upstreams, failures, monotonic=time.monotonic, boottime=boottime)

    return {
        "report": lambda given: as_data(assembly.report()),
        "apply_config": lambda given: _apply_config(assembly, given["config"]),
        "flush": assembly.commands.flush,
        "log": assembly.commands.log,
        "take_over": lambda given: proxy.take_over(given["name"]),
        "release": lambda given: proxy.release(given["name"]),
        "stop_now": lambda given: proxy.stop_now(),
        "learn": learn_from,
    }


def _apply_config(assembly: Assembly, text: str) -> list[str]:
    """
    Apply a configuration in TOML; refuse one that is not usable, without a traceback.
    """
    try:
        return assembly.apply_config(load_text(text).config)
    except ConfigError as error:
        raise ValueError("; ".join(error.problems)) from None


def main() -> None:
    """
    Run a worker until its supervisor, or a signal, ends it.
    """
    from twisted.internet import reactor as global_reactor

    # Every socket is bound.  Root's access to files stays as the supervisor has it: the bounding set is inherited.
    give_up(FILES)
    reactor = cast(IServiceReactor, global_reactor)
    worker = Worker(reactor)
    # A terminal sends Ctrl-C and hangups to all processes: the supervisor decides what they mean.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
        reactor.callWhenRunning(signal.signal, number, signal.SIG_IGN)
    reactor.callWhenRunning(signal.signal, signal.SIGTERM, lambda *_: reactor.callFromThread(worker.stop))
    observer = cast(ILogObserver, LogLimit(cast(ILogObserver, worker.log)))
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
    factory = Factory.forProtocol(lambda: worker.channel)
    factory.noisy = False
    reactor.adoptStreamConnection(CHANNEL, socket.AF_UNIX, cast(ServerFactory, factory))
    os.close(CHANNEL)
    reactor.run()


if __name__ == "__main__":
    main()
