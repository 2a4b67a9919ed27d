"""
A worker: one process of a proxy that is several.

Decides how it is started and ended.  It reads no configuration and no environment of its own, listens where it is told
to, and does what its supervisor says; when that has ended, it answers what is outstanding, and ends, too.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

from twisted.internet.protocol import Factory
from twisted.logger import LogEvent, Logger, LogLevel, eventAsJSON, globalLogBeginner

from dotproxy.config.load import load_text
from dotproxy.errors import ConfigError
from dotproxy.service.assembly import Assembly
from dotproxy.service.gc_tuning import freeze
from dotproxy.service.network_monitor import boottime
from dotproxy.service.privileges import FILES, give_up
from dotproxy.service.proxy import Proxy, WorkerShare
from dotproxy.service.workers.channel import CHANNEL, FOR_TLS, SOCKETS, Channel
from dotproxy.service.workers.findings import ToldEvents, learn
from dotproxy.telemetry.log_limit import LogLimit
from dotproxy.telemetry.report import as_data


class Worker:
    """
    What its supervisor can ask for.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.channel = Channel({"begin": self.begin, "stop": lambda given: self.stop()}, self.stop)
        self._is_stopping = False
        self._dropped = 0
        observer: Any = self.log
        self._log = Logger("dotproxy", observer=observer)

    def begin(self, given: dict[str, Any]) -> str:
        """
        Serve: ``config`` is a configuration, ``name`` what it is called, ``secret`` in hexadecimal; ``sockets`` says
        of each that was handed over whose it is, "" if it is a listening one, ``FOR_TLS`` if it is one for TLS.  Return
        how datagrams are read and written.
        """
        config = load_text(given["config"]).config
        sockets: dict[str, list[socket.socket]] = {"": [], FOR_TLS: [], given["name"]: []}
        for number, owner in enumerate(given["sockets"]):
            passed = socket.socket(fileno=SOCKETS + number)
            passed.setblocking(False)
            os.set_inheritable(passed.fileno(), False)
            sockets.setdefault(owner, []).append(passed)
        secret = bytes.fromhex(given["secret"])
        tls_streams = sockets.pop(FOR_TLS)
        own, streams = sockets.pop(given["name"]), sockets.pop("")
        share = WorkerShare(given["name"], secret, own, streams, spare=sockets, tls_streams=tls_streams)
        events = ToldEvents(
            lambda found: self.channel.tell_if_room("found", {"findings": found}),
            debug=config.is_debug,
            clock=self._reactor,
        )
        assembly = Assembly(config, self._reactor, events, share)
        proxy = assembly.proxy
        failures = assembly.forwarder.failures

        def learn_from(given: dict[str, Any]) -> None:
            learn(given["findings"], assembly.upstreams, failures, now=time.monotonic, elapsed=boottime)

        self.channel.commands |= {
            "report": lambda given: as_data(assembly.report()),
            "become": lambda given: _become(proxy, given["config"]),
            "flush": assembly.commands.flush,
            "log": assembly.commands.log,
            "stand_in": lambda given: proxy.take_over(given["name"]),
            "stand_back": lambda given: proxy.release(given["name"]),
            "stop_now": lambda given: proxy.stop_now(),
            "learn": learn_from,
        }
        self._reactor.addSystemEventTrigger("before", "shutdown", proxy.stopService)
        proxy.startService()
        freeze()
        return proxy.io_mode

    def log(self, event: LogEvent) -> None:
        """
        Have its supervisor log something, unless it is Twisted telling what the supervisor tells once for all.

        While the supervisor does not keep up, lines are dropped and counted.
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
        End, after what is outstanding was answered; whoever says so, once is enough.

        Its supervisor may, whoever sends SIGTERM, and that there is no supervisor any more.
        """
        if not self._is_stopping and self._reactor.running:
            self._is_stopping = True
            self._reactor.stop()


def _become(proxy: Proxy, text: str) -> list[str]:
    """
    Have another configuration hold; what cannot be used is told without a traceback.
    """
    try:
        return proxy.apply_config(load_text(text).config)
    except ConfigError as error:
        raise ValueError("; ".join(error.problems)) from None


def main() -> None:
    """
    Be a worker, until told otherwise.
    """
    from twisted.internet import reactor as chosen

    # It has what its supervisor had when it was started; all is bound.  Root's access to files is as the supervisor's,
    # whose bounding set it has.
    give_up(FILES)
    reactor: Any = chosen
    worker = Worker(reactor)
    # A terminal's Ctrl-C is everybody's; what is to be done about it is the supervisor's business.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
        reactor.callWhenRunning(signal.signal, number, signal.SIG_IGN)
    reactor.callWhenRunning(signal.signal, signal.SIGTERM, lambda *_: reactor.callFromThread(worker.stop))
    observer: Any = LogLimit(worker.log)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
    factory: Any = Factory.forProtocol(lambda: worker.channel)
    factory.noisy = False
    reactor.adoptStreamConnection(CHANNEL, socket.AF_UNIX, factory)
    os.close(CHANNEL)
    reactor.run()


if __name__ == "__main__":
    main()
