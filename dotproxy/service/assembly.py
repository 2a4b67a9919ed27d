"""
A whole proxy: a configuration in, a service out; another configuration in, while it runs, and it is that one.

Decides how the parts are put together, and which of them outlive a change.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2s
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.internet.threads import deferToThread

from dotproxy.cache.failures import FailureCache
from dotproxy.cache.responses import ResponseCache
from dotproxy.config.choices import QueryLogMode
from dotproxy.config.describe import as_started, describe_changes
from dotproxy.config.model import Config
from dotproxy.policy.access import AccessList
from dotproxy.service.admin_commands import Commands, build_admin, report_of
from dotproxy.service.builders import (
    build_cache,
    build_dispatcher_settings,
    build_forwarder,
    build_forwarder_settings,
    build_limits,
    build_rewriter,
    build_transfers,
    build_upstreams,
    ttl_limits,
)
from dotproxy.service.cache_file import Snapshot
from dotproxy.service.cache_file_format import MAX_RECORD
from dotproxy.service.listener_certificate import ListenerCertificate, read_listener_tls, sockets_for_tls
from dotproxy.service.network_monitor import NetworkWatch, boottime
from dotproxy.service.proxy import Proxy, WorkerShare
from dotproxy.service.readiness import Readiness
from dotproxy.service.systemd import Manager, inherited, initial_environment
from dotproxy.service.tls_files import TlsFiles, TlsFileWatch, read_tls_files, read_usable_tls_files, watched_paths
from dotproxy.telemetry.counters import PlaintextCounters
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.telemetry.querylog import QueryLog
from dotproxy.telemetry.report import Report
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verification import Credentials


def build(config: Config, reactor: Any, events: Events | None = None) -> Proxy:
    """
    Return the proxy that ``config`` describes, not started.
    """
    return Assembly(config, reactor, events or LoggedEvents(debug=config.is_debug, clock=reactor)).proxy


class Assembly:
    """
    A proxy, or a share of one, and what is needed to make it another one while it runs.

    Owns: which upstream object stands for which part of the configuration.
    """

    def __init__(self, config: Config, reactor: Any, events: Events, share: WorkerShare | None = None) -> None:
        self._reactor = reactor
        self._events = events
        self._config = config
        self._secret = share.secret if share else os.urandom(32)
        services: list[IService] = []
        # Before the files are read, so that it notices what is written after that.
        watched = TlsFileWatch(
            lambda: watched_paths(self._config), self._take_files, clock=reactor, is_quiet=share is not None
        )
        self._files = read_tls_files(config)
        self._credentials = Credentials(*self._files.credentials(config))
        self._plaintext = PlaintextCounters()
        self._upstreams = build_upstreams(
            config, reactor, events, services, self._credentials, plaintext=self._plaintext
        )
        self._transfers = build_transfers(config, reactor, self._upstreams)
        self.cache = build_cache(config)
        self.forwarder = build_forwarder(
            config, reactor, self._upstreams, self._transfers, self.cache, FailureCache(events)
        )
        if self.cache is not None and config.cache_file is not None:
            services.append(_build_snapshot(self.cache, config.cache_file, config, reactor))
        self.forwarder.delivery.query_log = _build_query_log(config, self._secret)
        self._watch = self._build_watch(config)
        self._certificate = (
            ListenerCertificate(config, clock=reactor, wall_time=time.time, is_quiet=share is not None)
            if config.listen_tls
            else None
        )
        manager = Manager({} if share else os.environ, reactor)
        self.proxy = Proxy(
            config,
            reactor,
            [self._watch, watched, *services, *self._upstreams, self._transfers],
            self.forwarder,
            rebuilt=self.change,
            check_upstreams=self._check_upstreams,
            secret=self._secret,
            manager=manager,
            sockets=([], []) if share else inherited(initial_environment()),
            tls_sockets=[] if share else sockets_for_tls(config, initial_environment()),
            certificate=self._certificate,
            share=share,
        )
        self.commands = Commands(self.proxy, self.cache, events, lambda: reactor.callLater(0, reactor.stop))
        self.report = partial(report_of, self.proxy, self.cache, self._plaintext, share.name if share else "1")
        if share is None:
            self.proxy.readiness = Readiness(self.report, manager, clock=reactor, date=time.time)
            operated = build_admin(
                config, reactor, self._report_with_rate, lambda: self.proxy.addresses, self.commands.all()
            )
            for admin in operated:
                admin.setServiceParent(self.proxy)

    @property
    def upstreams(self) -> list[Upstream]:
        """
        Those that are asked.
        """
        return self._upstreams

    def change(self, config: Config) -> list[str]:
        """
        Make another configuration hold, as far as that can be while it runs, with the present contents of the files
        it names; return what changed.

        Upstreams that stay the same keep their connections, questions that are outstanding are not lost, and what is
        kept is kept.

        :raises ConfigError: if a file cannot be used; then nothing changes.
        """
        before = self._config
        files = read_usable_tls_files(config)
        changes = describe_changes(before, config) + files.changes_since(self._files)
        config = as_started(before, config)
        served = None if self._certificate is None else read_listener_tls(config)
        services: list[IService] = []
        known = (
            {}
            if _differ(before, config, _OF_EVERY_UPSTREAM)
            else dict(zip(before.upstream, self._upstreams, strict=True))
        )
        fresh = build_upstreams(
            replace(config, upstream=tuple(a for a in config.upstream if a not in known)),
            self._reactor,
            self._events,
            services,
            self._credentials,
            among=config.upstream,
            plaintext=self._plaintext,
        )
        made = iter(fresh)
        upstreams = [known[address] if address in known else next(made) for address in config.upstream]
        for service in (*services, *fresh):
            service.setServiceParent(self.proxy)
        dispatcher = self.forwarder.dispatcher
        dispatcher.apply_settings(upstreams, build_dispatcher_settings(config, len(upstreams)))
        self._transfers.change(self._everybody(), rewriter=build_rewriter(config), limit=config.max_transfers)
        self.forwarder.apply_settings(build_forwarder_settings(config, upstreams, dispatcher.upstream_table.active))
        self.forwarder.shares.change(
            AccessList(config.allow_from).allows, max_in_flight=config.max_outstanding, limits=build_limits(config)
        )
        self.forwarder.delivery.query_log = _build_query_log(config, self._secret)
        if isinstance(self._events, LoggedEvents) and before.log_level != config.log_level:
            self._events.debug = config.is_debug
        if self.cache is not None:
            self.cache.change(limits=ttl_limits(config), stale_for=config.serve_stale, prefetches=config.prefetch)
        gone = [upstream for upstream in self._upstreams if upstream not in upstreams]
        self._upstreams, self._config = upstreams, config
        self.proxy.config = config
        self._watch.disownServiceParent()
        self._watch = self._build_watch(config)
        self._watch.setServiceParent(self.proxy)
        if files != self._files or _differ(before, config, _OF_TLS):
            self._renew(files)
        if self._certificate is not None and served is not None:
            changes += self._certificate.replace(config, served)
        self._check_upstreams()
        # What they were asked they may still answer.
        self._reactor.callLater(before.query_timeout, _stop_all, gone)
        return changes

    def _take_files(self) -> list[str]:
        """
        Take in what the files hold now; return what has new contents.

        :raises ConfigError: if that cannot be used; then nothing changes.
        """
        files = read_usable_tls_files(self._config)
        changes = files.changes_since(self._files)
        if files != self._files:
            self._renew(files)
            self._check_upstreams()
        return changes

    def _renew(self, files: TlsFiles) -> None:
        """
        Authenticate every connection with these from now on, also those of upstreams that are leaving.
        """
        self._files = files
        self._credentials.replace(*files.credentials(self._config))
        for service in self.proxy:
            if isinstance(service, Upstream):
                service.renew()

    def _check_upstreams(self) -> None:
        for upstream in self._upstreams:
            upstream.check()

    def _report_with_rate(self) -> Report:
        report = self.report()
        report.rate = self.proxy.readiness.rate if self.proxy.readiness is not None else None
        return report

    def _everybody(self) -> list[Any]:
        return list(self.forwarder.dispatcher.upstream_table.slots)

    def _build_watch(self, config: Config) -> NetworkWatch:
        hosts = [[host for host, _ in address.addresses] for address in config.upstream]
        reached = list(zip(self._upstreams, hosts, strict=True))
        return NetworkWatch(reached, moved=self.forwarder.network_moved, reactor=self._reactor, now=time.monotonic)


def _build_snapshot(cache: ResponseCache, file: Path, config: Config, reactor: Any) -> Snapshot:
    return Snapshot(
        cache,
        file,
        # A record takes less room in the file than cache_memory counts for it.
        limit=min(config.cache_memory, config.cache_size * MAX_RECORD),
        clock=reactor,
        elapsed=boottime,
        date=time.time,
        in_thread=deferToThread,
    )


def _build_query_log(config: Config, secret: bytes) -> QueryLog | None:
    if config.query_log is QueryLogMode.OFF:
        return None
    is_clear = config.query_log is QueryLogMode.CLEAR
    # Not the cookies' key, though from the same secret: names and cookies are told to different people.
    key = blake2s(secret, person=b"queries").digest()
    queries = QueryLog(is_clear=is_clear, sample=config.query_log_sample, key=key, chance=random.random)
    queries.announce()
    return queries


def _stop_all(services: Sequence[Upstream]) -> None:
    for service in services:
        service.disownServiceParent()


#: Settings that are part of every upstream: if one of them changes, all are made anew.
_OF_EVERY_UPSTREAM = ("connect_timeout", "upstream_idle_timeout", "bootstrap")

#: Settings that are part of every TLS context: if one of them changes, upstreams stay, and connections are made anew.
_OF_TLS = ("ca_file", "client_certificate", "client_key", "tls_minimum", "tls_ciphers")


def _differ(before: Config, after: Config, keys: Sequence[str]) -> bool:
    return any(getattr(before, key) != getattr(after, key) for key in keys)
