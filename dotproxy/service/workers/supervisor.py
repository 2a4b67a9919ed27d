"""
The supervisor of a proxy with several worker processes.

Decides what workers are told, and when.  It binds all sockets and keeps them open, so that datagrams that wait in the
socket of a worker that has ended are not lost: another worker takes the socket over (``socket_assignment``) until a new
process serves.  It reads no query and dials no upstream itself.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dotproxy import __version__
from dotproxy.config.choices import LogLevel
from dotproxy.config.describe import as_started, describe_changes, effective
from dotproxy.config.load import Loaded
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.downstream.sockets import Endpoint
from dotproxy.service.admin_commands import build_admin, reload_command
from dotproxy.service.listener_certificate import ListenerCertificate, read_listener_tls
from dotproxy.service.listening import ListeningSockets, log_listening, log_upstreams
from dotproxy.service.proxy import DRAIN
from dotproxy.service.reactor import IServiceReactor
from dotproxy.service.readiness import Readiness
from dotproxy.service.reload import ConfigSource, Reloader
from dotproxy.service.systemd import ServiceNotifier
from dotproxy.service.tls_files import TlsFileWatch, read_tls_files, read_usable_tls_files, watched_paths
from dotproxy.service.workers.channel import Arguments, Gone
from dotproxy.service.workers.slot import WorkerSlot
from dotproxy.service.workers.socket_assignment import ALL_WORKERS, SocketAssignment
from dotproxy.telemetry.report import Report, sum_of

#: Seconds between two checks of the workers.
CHECK_INTERVAL = 1.0

#: Settings that are totals: each worker gets its part.
_TOTALS = ("cache_size", "cache_memory", "client_rate", "max_outstanding", "tcp_max_connections")

#: How long after ``DRAIN`` a worker may take to end, in seconds, before it is killed.
WORKER_STOP_TIMEOUT = 3.0

log = Logger("dotproxy")


class Supervisor(MultiService):
    """
    Same interface as ``Proxy``, backed by several worker processes.

    Owns: the worker slots, and ``sockets``.
    Told by: twistd, its slots (``SlotObserver``).

    ``sockets`` are those passed by systemd: each worker reads all of them; what is missing is bound, one UDP socket for
    each address and worker.
    """

    def __init__(
        self,
        config: Config,
        reactor: IServiceReactor,
        count: int,
        *,
        notifier: ServiceNotifier,
        source: ConfigSource,
        sockets: ListeningSockets,
    ) -> None:
        super().__init__()
        self.config = config
        self.slots: dict[str, WorkerSlot] = {}
        self._reactor = reactor
        self._count = count
        self._notifier = notifier
        self._source = source
        self._names = [str(number + 1) for number in range(count)]
        self.sockets = SocketAssignment(self._names, sockets)
        self._checks = LoopingCall(self._check_workers)
        self._checks.clock = reactor
        self._log_level = config.log_level
        # One secret for all: a cookie, or a hashed name in the query log, is the same from each worker.
        self._secret = os.urandom(32)
        self._is_ready = self._is_draining = False
        # Workers reload these files by themselves; here the outcome is logged, once for all of them.
        tls_watch = TlsFileWatch(lambda: watched_paths(self.config), self._reload_tls_files, clock=reactor)
        self._files = read_tls_files(config)
        self._certificate: ListenerCertificate | None = None
        self._readiness = Readiness(
            self._total_report, notifier, clock=reactor, wall_time=time.time, refresh=self._request_reports
        )
        self._reloader = Reloader(self, source, notifier, lambda: self._readiness.text)
        for service in (notifier, tls_watch):
            service.setServiceParent(self)
        if config.listen_tls:
            self._certificate = ListenerCertificate(config, clock=reactor, wall_time=time.time)
            self._certificate.setServiceParent(self)
        self._add_admin()

    def _add_admin(self) -> None:
        commands = {
            "flush": self.flush,
            "reload": lambda given: reload_command(self),
            "log": self.log,
            "drain": self.drain,
        }
        for admin in build_admin(self.config, self._reactor, self.report, lambda: self.addresses, commands):
            admin.setServiceParent(self)

    @property
    def addresses(self) -> list[Endpoint]:
        """
        The address and port of each listener; none once it stops.
        """
        return self.sockets.of_one_worker.addresses

    def privilegedStartService(self) -> None:
        """
        Bind every listener, or none; sockets that were passed are not bound again.

        :raises CannotBind: naming every address that cannot be bound.
        """
        super().privilegedStartService()
        self.sockets.bind_missing(self.config)

    def startService(self) -> None:
        """
        Start the workers.
        """
        if not self.sockets.has_plain:  # `twist`, and tests, do not call privilegedStartService
            self.privilegedStartService()
        super().startService()
        log.info(
            "dotproxy {version}, {count} workers, configuration: {origin}",
            version=__version__,
            count=self._count,
            origin=self._source.origin,
        )
        sockets = [owned.bound for owned in self.sockets.owned()]
        self.slots = {name: WorkerSlot(name, sockets, self._reactor, self) for name in self._names}
        for slot in self.slots.values():
            slot.start()
        self._checks.start(CHECK_INTERVAL, now=False)

    def stopService(self) -> Deferred[None]:
        """
        Stop listening, have outstanding queries answered for at most ``DRAIN`` seconds, then stop everything.
        """
        return Deferred.fromCoroutine(self._stop())

    def stop_now(self) -> None:
        """
        Fail outstanding queries at once.
        """
        for slot in self.slots.values():
            slot.tell("stop_now")

    def report(self) -> Deferred[Report]:
        """
        Return the sum of all workers' reports: new ones, or after two seconds those that there are.
        """
        reported: Deferred[Report] = Deferred()

        def finish(result: object = None) -> None:
            if limit.active():
                limit.cancel()
            if not reported.called:
                reported.callback(self._total_report())

        limit = self._reactor.callLater(2 * CHECK_INTERVAL, finish)
        DeferredList([slot.update() for slot in self._serving()]).addBoth(finish)
        return reported

    def reload(self) -> list[str]:
        """
        Reload the configuration; return a phrase for each change.

        :raises ConfigError: with every problem, if it is not usable; then nothing changes.
        """
        return self._reloader.reload()

    def apply_config(self, config: Config) -> list[str]:
        """
        Put ``config`` into effect in every worker; return a phrase for each change.

        A worker that starts at the moment gets it after its first one.

        :raises ConfigError: if a file that it names is not usable; then nothing changes.
        """
        before = self.config
        files = read_usable_tls_files(config)
        started = as_started(before, config)
        listener_tls = None if self._certificate is None else read_listener_tls(started)
        # Nothing below can be refused.
        if config.log_level != before.log_level:
            self._log_level = config.log_level
        self.config = started
        for slot in self.slots.values():
            applied = slot.ask("apply_config", {"config": self._config_text(slot.name)})
            applied.addErrback(self._log_refusal, slot.name)
        changes = describe_changes(before, config) + files.changes_since(self._files)
        self._files = files
        if self._certificate is not None and listener_tls is not None:
            changes += self._certificate.replace(started, listener_tls)
        return changes

    def flush(self, given: dict[str, str]) -> Deferred[dict[str, int]]:
        """
        Flush every worker's cache; see ``admin_commands.Commands``.
        """
        flushed = gatherResults([slot.ask("flush", given) for slot in self._serving()], consumeErrors=True)
        return flushed.addCallbacks(lambda each: {"flushed": sum(one["flushed"] for one in each)}, _first)

    def log(self, given: dict[str, str]) -> Deferred[dict[str, str]]:
        """
        Set the log level of every worker, and of those that start later, to ``level``.
        """

        def done(each: object) -> dict[str, str]:
            self._log_level = LogLevel(given["level"])
            return {"level": given["level"]}

        logged = gatherResults([slot.ask("log", given) for slot in self._serving()], consumeErrors=True)
        return logged.addCallbacks(done, _first)

    def drain(self, given: dict[str, str]) -> dict[str, bool]:
        """
        Answer outstanding queries, and stop.
        """
        self._reactor.callLater(0, self._reactor.stop)
        return {"draining": True}

    def first_message(self, slot: WorkerSlot) -> Arguments:
        """
        Return the arguments of ``begin``; see ``worker``.
        """
        owners = [slot.name if owned.owner == ALL_WORKERS else owned.owner for owned in self.sockets.owned()]
        return {
            "name": slot.name,
            "secret": self._secret.hex(),
            "config": self._config_text(slot.name),
            "sockets": owners,
        }

    def on_ready(self, slot: WorkerSlot) -> None:
        """
        Give the worker its sockets back; the first time that all serve, say so.
        """
        if self._is_ready or self._log_level is LogLevel.DEBUG:
            log.info("worker {name} ({pid}) serves", name=slot.name, pid=slot.pid)
        self._reassign_sockets()
        if not self._is_ready and len(self._serving()) == self._count:
            self._is_ready = True
            self._log_start(slot.io_mode)
            self._readiness.begin()

    def on_findings(self, slot: WorkerSlot, given: Arguments) -> None:
        """
        Pass the findings of one worker on to the others.
        """
        for other in self._serving():
            if other is not slot:
                other.tell("learn", given)

    def on_exit(self, slot: WorkerSlot) -> None:
        """
        Have others take over the sockets that the worker read.
        """
        self.sockets.forget(slot.name)
        self._reassign_sockets()

    def _serving(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots.values() if slot.is_serving]

    def _total_report(self) -> Report:
        total = sum_of([slot.whole_report() for slot in self.slots.values()])
        known = {one.label for slot in self._serving() for one in slot.report.upstreams}
        # Reports of ended processes still have upstreams that were removed since.
        total.upstreams = [one for one in total.upstreams if one.label in known or not known]
        # Every worker reports the drops of the same sockets.
        total.udp_drops = self.sockets.drops
        total.tls_addresses = list(map(str, self.sockets.tls_addresses))
        total.restarts = sum(slot.restarts for slot in self.slots.values())
        if self._is_draining:
            total.not_ready = "it is stopping"
        total.rate = self._readiness.rate
        return total

    def _reload_tls_files(self) -> list[str]:
        """
        Return a phrase for each file, of those that workers read, with new contents.
        """
        before, self._files = self._files, read_usable_tls_files(self.config)
        return self._files.changes_since(before)

    def _config_text(self, name: str) -> str:
        """
        Return the configuration of one worker as TOML: its part of the totals, and a cache file of its own.
        """
        parts = {key: math.ceil(getattr(self.config, key) / self._count) for key in _TOTALS}
        file = self.config.cache_file
        own_file = file.with_name(f"{file.name}.{name}") if file else None
        config = replace(self.config, log_level=self._log_level, cache_file=own_file, **parts)
        return effective(Loaded(config, {setting.key: "supervisor" for setting in SETTINGS}))

    def _log_start(self, io_mode: str) -> None:
        log_listening(self.sockets.of_one_worker)
        if self._log_level is LogLevel.DEBUG:
            log.debug("datagrams are read and written {io_mode}", io_mode=io_mode)
        key = "name" if self.sockets.is_by_name else "client"
        log.info("{count} workers serve; queries over UDP are distributed by {key}", count=self._count, key=key)
        log_upstreams(self.config)

    def _reassign_sockets(self) -> None:
        for worker, command, name in self.sockets.reassign({slot.name for slot in self._serving()}):
            self.slots[worker].tell(command, {"name": name})

    def _check_workers(self) -> None:
        for slot in self.slots.values():
            slot.check()

    def _request_reports(self) -> None:
        for slot in self._serving():
            slot.update()

    def _log_refusal(self, failure: Failure, name: str) -> None:
        if not failure.check(Gone):  # the next process starts with the new configuration
            log.error("worker {name} keeps its configuration: {reason}", name=name, reason=failure.getErrorMessage())

    async def _stop(self) -> None:
        self._is_draining = True
        self._readiness.end()
        self._notifier.tell("STOPPING=1", "STATUS=answering what is outstanding")
        if self._checks.running:
            self._checks.stop()
        self.sockets.close()  # else the kernel queues queries in them that nobody reads
        limit = self._reactor.callLater(DRAIN + WORKER_STOP_TIMEOUT, self._kill_all)
        await DeferredList([slot.stop() for slot in self.slots.values()])
        if limit.active():
            limit.cancel()
        await super().stopService()
        self.sockets.clear()
        log.info("stopped")

    def _kill_all(self) -> None:
        for slot in self.slots.values():
            slot.kill()


def _first(failure: Failure) -> Failure:
    """
    Return the failure that made ``gatherResults`` fail.
    """
    error = failure.value
    return error.subFailure if isinstance(error, FirstError) else failure
