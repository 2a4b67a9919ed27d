"""
A proxy that is several processes: the supervisor of them.

Decides who serves what.  It binds all sockets and keeps them, so that nothing is lost that waits in one whose process
has ended: another stands in until the next process serves.  Reads no query and asks no upstream itself.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dotproxy import __version__
from dotproxy.config.choices import LogLevel
from dotproxy.config.describe import as_started, describe_changes, effective
from dotproxy.config.fallback import without_fallbacks
from dotproxy.config.load import Loaded
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.downstream.reuseport_bpf import attach_name_hash
from dotproxy.downstream.sockets import bind_with_tls, drops_of
from dotproxy.errors import ConfigError
from dotproxy.service.admin.routes import Command
from dotproxy.service.admin_commands import build_admin
from dotproxy.service.listener_certificate import ListenerCertificate, read_listener_tls
from dotproxy.service.proxy import DRAIN, addresses_of, log_listening, log_problems, log_upstreams, log_warnings
from dotproxy.service.readiness import Readiness
from dotproxy.service.systemd import Manager
from dotproxy.service.tls_files import TlsFileWatch, read_tls_files, read_usable_tls_files, watched_paths
from dotproxy.service.workers.channel import FOR_TLS, Gone
from dotproxy.service.workers.slot import WorkerSlot
from dotproxy.telemetry.report import Report, sum_of

#: How often workers are looked at, in seconds.
LOOK = 1.0

#: What they are given in all, each of them its part.
_SHARED = ("cache_size", "cache_memory", "client_rate", "max_outstanding", "tcp_max_connections")

#: How long after the end of ``DRAIN`` a worker may take to end, in seconds.
WORKER_STOP_TIMEOUT = 3.0

#: Whose sockets are that all workers read.
_EVERYBODY = "*"

log = Logger("dotproxy")


class Supervisor(MultiService):
    """
    To be used as ``Proxy``, of which it is several.

    ``sockets`` are those that somebody has opened for it, over UDP and over TCP: each worker uses all of them; so they
    do ``tls_sockets``.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        count: int,
        *,
        manager: Manager,
        sockets: tuple[list[socket.socket], list[socket.socket]] = ([], []),
        tls_sockets: Sequence[socket.socket] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.load_config: Callable[[], Loaded] | None = None
        self.origin = ""
        self.warnings: tuple[str, ...] = ()
        self._reactor = reactor
        self._count = count
        self._manager = manager
        self._names = [str(number + 1) for number in range(count)]
        # By the name of the worker that reads them.
        self._datagrams: dict[str, list[socket.socket]] = {_EVERYBODY: sockets[0]} if sockets[0] else {}
        self._streams = sockets[1]
        self._tls_streams = list(tls_sockets)
        self.places: dict[str, WorkerSlot] = {}
        self._standing_in: dict[str, str] = {}
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._log_level = config.log_level
        # So that cookies, and names in the query log, are the same whoever answers.
        self._secret = os.urandom(32)
        self._is_ready = self._is_draining = self._is_by_name = False
        # Each worker reads the files by itself; here it is told what became of them.
        watched = TlsFileWatch(lambda: watched_paths(self.config), self._take_files, clock=reactor)
        self._files = read_tls_files(config)
        self._certificate = (
            ListenerCertificate(config, clock=reactor, wall_time=time.time) if config.listen_tls else None
        )
        self._readiness = Readiness(self._added, manager, clock=reactor, date=time.time, refresh=self._update)
        manager.setServiceParent(self)
        watched.setServiceParent(self)
        if self._certificate is not None:
            self._certificate.setServiceParent(self)
        commands: dict[str, Command] = {"flush": self.flush, "reload": self._reload, "log": self.log}
        commands["drain"] = self.drain
        for admin in build_admin(config, reactor, self.report, lambda: self.addresses, commands):
            admin.setServiceParent(self)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """
        The address and port of each listener; none any more while it stops.
        """
        listening = next(iter(self._datagrams.values()), [])
        return [bound.getsockname()[:2] for bound in listening if bound.fileno() >= 0]

    def privilegedStartService(self) -> None:
        """
        Bind every listener, or none; none, if sockets were handed over.

        :raises CannotBind: naming every one that could not be.
        """
        super().privilegedStartService()
        plain = () if self._datagrams or self._streams else self.config.listen
        tls = () if self._tls_streams else self.config.listen_tls
        datagrams, streams, tls_streams = bind_with_tls(
            [(one.host, one.port) for one in plain], [(one.host, one.port) for one in tls], self._count
        )
        self._tls_streams += tls_streams
        if plain:
            self._streams = streams
            self._datagrams = dict(zip(self._names, datagrams, strict=True))
            steered = [attach_name_hash(several) for several in zip(*datagrams, strict=True)]  # by address
            self._is_by_name = all(steered)

    def startService(self) -> None:
        """
        Serve.
        """
        if not (self._datagrams or self._streams):
            self.privilegedStartService()
        super().startService()
        origin = self.origin or "given"
        log.info(
            "dotproxy {version}, {count} workers, configuration: {origin}",
            version=__version__,
            count=self._count,
            origin=origin,
        )
        sockets = [bound for _, bound in self._owned()]
        for name in self._names:
            self.places[name] = WorkerSlot(
                name,
                sockets,
                self._reactor,
                beginning=self._beginning,
                on_ready=self._came,
                found=self._share,
                on_exit=self._went,
            )
        for place in self.places.values():
            place.start()
        self._looking.start(LOOK, now=False)

    def stopService(self) -> Deferred[None]:
        """
        Take no more questions, have those answered that there are, for a bounded time; then end everything.
        """
        return Deferred.fromCoroutine(self._stop())

    def stop_now(self) -> None:
        """
        Do not wait for what is outstanding any longer.
        """
        for place in self.places.values():
            place.tell("stop_now")

    def report(self) -> Deferred[Report]:
        """
        Return what is known of all.
        """
        told: Deferred[Report] = Deferred()

        def tell(result: Any = None) -> None:
            if limit.active():
                limit.cancel()
            if not told.called:
                told.callback(self._added())

        limit = self._reactor.callLater(2 * LOOK, tell)
        DeferredList([place.update() for place in self._serving()]).addBoth(tell)
        return told

    def reload(self) -> list[str]:
        """
        Have the configuration as it is now; return what changed.  What cannot be used changes nothing; see ``Proxy``.

        :raises ConfigError: with every problem there is with it.
        """
        self._manager.reloading()
        before = self.config
        try:
            if self.load_config is None:
                raise ConfigError(["there is nothing to read a configuration from"])
            loaded = self.load_config()
            fresh = without_fallbacks(before, loaded)
            files = read_usable_tls_files(fresh)
            config = as_started(before, fresh)
            served = None if self._certificate is None else read_listener_tls(config)
        except ConfigError as error:
            log_problems(error)
            raise
        finally:
            self._manager.ready(self._readiness.text)
        if fresh.log_level != before.log_level:
            self._log_level = fresh.log_level
        self.config = config
        for place in self.places.values():
            place.ask("become", {"config": self._text(place.name)}).addErrback(self._stays, place.name)
        changes = describe_changes(before, fresh) + files.changes_since(self._files)
        self._files = files
        if self._certificate is not None and served is not None:
            changes += self._certificate.replace(config, served)
        self.warnings = log_warnings(loaded, self.warnings)
        log.info("configuration read: {changes}", changes="; ".join(changes) or "nothing has changed")
        return changes

    def flush(self, given: dict[str, str]) -> Deferred[dict[str, Any]]:
        """
        Have all forget answers; see ``commands.Commands``.
        """
        flushed = gatherResults([place.ask("flush", given) for place in self._serving()], consumeErrors=True)
        return flushed.addCallbacks(lambda each: {"flushed": sum(one["flushed"] for one in each)}, _first)

    def log(self, given: dict[str, str]) -> Deferred[Any]:
        """
        Have all log at another ``level``, and those that will come.
        """

        def done(each: list[Any]) -> Any:
            self._log_level = LogLevel(given["level"])
            return {"level": given["level"]}

        logged = gatherResults([place.ask("log", given) for place in self._serving()], consumeErrors=True)
        return logged.addCallbacks(done, _first)

    def drain(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Stop, after answering what is outstanding.
        """
        self._reactor.callLater(0, self._reactor.stop)
        return {"draining": True}

    def _reload(self, given: dict[str, str]) -> dict[str, Any]:
        try:
            return {"changes": self.reload()}
        except ConfigError as error:
            raise ValueError("\n".join(error.problems)) from None

    def _serving(self) -> list[WorkerSlot]:
        return [place for place in self.places.values() if place.is_serving]

    def _added(self) -> Report:
        whole = sum_of([place.whole_report() for place in self.places.values()])
        known = {one.label for place in self._serving() for one in place.report.upstreams}
        # Upstreams that are not asked any more live on in what is left of ended processes.
        whole.upstreams = [one for one in whole.upstreams if one.label in known or not known]
        # A socket's are the same for all that have it.
        whole.udp_drops = sum(drops_of(bound) for several in self._datagrams.values() for bound in several)
        whole.tls_addresses = addresses_of(self._tls_streams)
        whole.restarts = sum(place.restarts for place in self.places.values())
        if self._is_draining:
            whole.not_ready = "it is stopping"
        whole.rate = self._readiness.rate
        return whole

    def _take_files(self) -> list[str]:
        """
        Return which of the files that workers read has new contents.
        """
        before, self._files = self._files, read_usable_tls_files(self.config)
        return self._files.changes_since(before)

    def _text(self, name: str) -> str:
        """
        Our configuration for one of them, which keeps answers of its own.
        """
        parts = {key: math.ceil(getattr(self.config, key) / self._count) for key in _SHARED}
        file = self.config.cache_file
        own_file = file.with_name(f"{file.name}.{name}") if file else None
        config = replace(self.config, log_level=self._log_level, cache_file=own_file, **parts)
        return effective(Loaded(config, {setting.key: "supervisor" for setting in SETTINGS}))

    def _beginning(self, place: WorkerSlot) -> dict[str, Any]:
        owners = [place.name if name == _EVERYBODY else name for name, _ in self._owned()]
        return {
            "name": place.name,
            "secret": self._secret.hex(),
            "config": self._text(place.name),
            "sockets": owners,
        }

    def _owned(self) -> list[tuple[str, socket.socket]]:
        """
        Every socket, with the name of the worker whose it is; "" for listening ones, ``FOR_TLS`` for those of TLS.
        """
        owned = [(name, bound) for name, several in self._datagrams.items() for bound in several]
        owned += [(FOR_TLS, bound) for bound in self._tls_streams]
        return owned + [("", bound) for bound in self._streams]

    def _came(self, place: WorkerSlot) -> None:
        if self._is_ready or self._log_level is LogLevel.DEBUG:
            log.info("worker {name} ({pid}) serves", name=place.name, pid=place.pid)
        self._cover()
        if not self._is_ready and len(self._serving()) == self._count:
            self._is_ready = True
            self._log_listening(place.manner)
            self._readiness.begin()

    def _log_listening(self, manner: str) -> None:
        log_listening(next(iter(self._datagrams.values()), []), self._streams, self._tls_streams)
        if self._log_level is LogLevel.DEBUG:
            log.debug("datagrams are read and written {manner}", manner=manner)
        how = "name" if self._is_by_name else "client"
        log.info("{count} workers serve; queries over UDP are distributed by {how}", count=self._count, how=how)
        log_upstreams(self.config)

    def _went(self, place: WorkerSlot) -> None:
        # The next process there knows nothing of whom this one has stood in for.
        self._standing_in = {name: other for name, other in self._standing_in.items() if other != place.name}
        self._cover()

    def _share(self, place: WorkerSlot, given: dict[str, Any]) -> None:
        """
        Pass on to the others what one worker found out.
        """
        for other in self._serving():
            if other is not place:
                other.tell("learn", given)

    def _cover(self) -> None:
        """
        See to it that every socket is read: its worker's, if that serves, or by another.
        """
        serving = {place.name for place in self._serving()}
        for name in self._datagrams:
            other = self._standing_in.get(name)
            if name in serving or name == _EVERYBODY:
                if other is not None:
                    self.places[other].tell("stand_back", {"name": name})
                    del self._standing_in[name]
            elif other is None and serving:
                burdens = Counter(self._standing_in.values())
                chosen = self._standing_in[name] = min(serving, key=lambda one: (burdens[one], one))
                self.places[chosen].tell("stand_in", {"name": name})

    def _look(self) -> None:
        for place in self.places.values():
            place.look()

    def _update(self) -> None:
        for place in self._serving():
            place.update()

    def _stays(self, failure: Failure, name: str) -> None:
        if not failure.check(Gone):  # the next one will have the new one
            log.error("worker {name} stays as it was: {reason}", name=name, reason=failure.getErrorMessage())

    async def _stop(self) -> None:
        self._is_draining = True
        self._readiness.end()
        self._manager.tell("STOPPING=1", "STATUS=answering what is outstanding")
        if self._looking.running:
            self._looking.stop()
        for _, bound in self._owned():  # as long as we have them, somebody would wait in them for nothing
            bound.close()
        limit = self._reactor.callLater(DRAIN + WORKER_STOP_TIMEOUT, self._kill_all)
        await DeferredList([place.leave() for place in self.places.values()])
        if limit.active():
            limit.cancel()
        await super().stopService()
        self._datagrams, self._streams, self._tls_streams = {}, [], []
        log.info("stopped")

    def _kill_all(self) -> None:
        for place in self.places.values():
            place.kill()


def _first(failure: Failure) -> Failure:
    error: Any = failure.value
    return error.subFailure if isinstance(error, FirstError) else failure
