"""
A whole proxy, built from a configuration, and rebuilt as far as a reload asks for it.

Decides how the parts are connected, and which of them outlive a change of configuration: upstreams that stay the same
keep their connections, and the cache keeps its entries.  Each part is built by ``builders`` or ``upstream_builders``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from twisted.application.service import IService
from twisted.internet.defer import succeed

from dotproxy.cache.failures import FailureCache
from dotproxy.config.describe import as_started, describe_changes
from dotproxy.config.model import Config
from dotproxy.service.admin_commands import Commands, build_admin, report_of
from dotproxy.service.builders import (
    build_cache,
    build_cache_file,
    build_cache_settings,
    build_dispatcher_settings,
    build_forwarder,
    build_forwarder_settings,
    build_proxy_settings,
    build_query_log,
    build_share_settings,
    build_transfer_settings,
    build_transfers,
)
from dotproxy.service.listener_certificate import ListenerCertificate, read_listener_tls
from dotproxy.service.listening import inherited_sockets
from dotproxy.service.network_monitor import NetworkMonitor
from dotproxy.service.proxy import Proxy, WorkerShare
from dotproxy.service.reactor import IServiceReactor
from dotproxy.service.readiness import Readiness
from dotproxy.service.reload import ConfigSource
from dotproxy.service.systemd import ServiceNotifier, initial_environment
from dotproxy.service.tls_files import TlsFiles, TlsFileWatch, read_tls_files, read_usable_tls_files, watched_paths
from dotproxy.service.upstream_builders import build_upstreams
from dotproxy.telemetry.counters import PlaintextCounters
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.telemetry.report import Report
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verification import Credentials

#: Settings that are part of every upstream: if one of them changes, all upstreams are made anew.
_OF_EVERY_UPSTREAM = ("connect_timeout", "upstream_idle_timeout", "bootstrap")

#: Settings that are part of every TLS context: if one of them changes, upstreams stay, and their connections are made
#: anew.
_OF_TLS = ("ca_file", "client_certificate", "client_key", "tls_minimum", "tls_ciphers")


def build(
    config: Config, reactor: IServiceReactor, events: Events | None = None, source: ConfigSource | None = None
) -> Proxy:
    """
    Return the proxy that ``config`` describes, not started; a reload loads its configuration from ``source``.

    :raises ConfigError: if a file that the configuration names is not usable.
    """
    events = events or LoggedEvents(debug=config.is_debug, clock=reactor)
    return Assembly(config, reactor, events, source=source).proxy


class Assembly:
    """
    A proxy, or a worker's share of one, and the parts that a reload changes.

    Owns: which upstream object serves which ``upstream`` of the configuration.
    Told by: ``proxy`` (``apply_config``, ``check_upstreams``), a worker, the watch on TLS files.
    """

    def __init__(
        self,
        config: Config,
        reactor: IServiceReactor,
        events: Events,
        share: WorkerShare | None = None,
        source: ConfigSource | None = None,
    ) -> None:
        self.config = config
        self._reactor = reactor
        self._events = events
        self._share = share
        self._secret = share.secret if share else os.urandom(32)
        # Before the files are read, so that a later write is noticed.
        tls_watch = TlsFileWatch(
            lambda: watched_paths(self.config), self._reload_tls_files, clock=reactor, is_quiet=share is not None
        )
        self._files = read_tls_files(config)
        self._credentials = Credentials(*self._files.credentials(config))
        self._plaintext = PlaintextCounters()
        services: list[IService] = []
        self.upstreams = build_upstreams(
            config, reactor, events, services, self._credentials, plaintext=self._plaintext
        )
        self._transfers = build_transfers(config, reactor, self.upstreams)
        self._build_forwarder(services)
        self._network_monitor = self._build_network_monitor()
        self.proxy = self._build_proxy(source or ConfigSource())
        self.proxy.add_services([self._network_monitor, tls_watch, *services, *self.upstreams, self._transfers])
        self.commands = Commands(self.proxy, self.cache, events, self._stop_reactor)
        if share is None:
            self.proxy.add_services(
                build_admin(
                    config, reactor, lambda: succeed(self.report()), lambda: self.proxy.addresses, self.commands.all()
                )
            )

    def _stop_reactor(self) -> None:
        self._reactor.callLater(0, self._reactor.stop)

    def report(self) -> Report:
        """
        Return the proxy's numbers at this moment.
        """
        name = self._share.name if self._share else "1"
        report = report_of(self.proxy, self.cache, self._plaintext, name)
        report.rate = self.proxy.readiness.rate if self.proxy.readiness is not None else None
        return report

    def check_upstreams(self) -> None:
        """
        Dial each upstream that is not verified yet.
        """
        for upstream in self.upstreams:
            upstream.check()

    def apply_config(self, config: Config) -> list[str]:
        """
        Put ``config`` into effect, as far as that needs no restart, with the present contents of the files it names;
        return a phrase for each change.

        Upstreams that stay the same keep their connections; outstanding queries and the cache are kept.

        :raises ConfigError: if a file is not usable; then nothing changes.
        """
        before = self.config
        files = read_usable_tls_files(config)
        changes = describe_changes(before, config) + files.changes_since(self._files)
        config = as_started(before, config)
        certificate = self.proxy.certificate
        listener_tls = None if certificate is None else read_listener_tls(config)
        # Nothing below can be refused.
        self.config = config
        removed = self._replace_upstreams(before, config)
        self._apply_settings(before, config)
        if files != self._files or _differ(before, config, _OF_TLS):
            self._replace_credentials(files)
        if certificate is not None and listener_tls is not None:
            changes += certificate.replace(config, listener_tls)
        self.check_upstreams()
        # Until then they may still answer what they were sent.
        self._reactor.callLater(before.query_timeout, _stop_all, removed)
        return changes

    def _replace_upstreams(self, before: Config, config: Config) -> list[Upstream]:
        """
        Build the upstreams that are new, and start them; return those that are removed, still running.
        """
        known = (
            {}
            if _differ(before, config, _OF_EVERY_UPSTREAM)
            else dict(zip(before.upstream, self.upstreams, strict=True))
        )
        services: list[IService] = []
        fresh = build_upstreams(
            replace(config, upstream=tuple(address for address in config.upstream if address not in known)),
            self._reactor,
            self._events,
            services,
            self._credentials,
            among=config.upstream,
            plaintext=self._plaintext,
        )
        self.proxy.add_services([*services, *fresh])
        built = iter(fresh)
        upstreams = [known[address] if address in known else next(built) for address in config.upstream]
        removed = [upstream for upstream in self.upstreams if upstream not in upstreams]
        self.upstreams = upstreams
        return removed

    def _apply_settings(self, before: Config, config: Config) -> None:
        """
        Hand each part its new settings.
        """
        forwarder, dispatcher = self.forwarder, self.forwarder.dispatcher
        dispatcher.apply_settings(self.upstreams, build_dispatcher_settings(config, len(self.upstreams)))
        table = dispatcher.upstream_table
        # The forwarder types upstreams as its own interface; here each is an ``Upstream``.
        slots = cast(list[Upstream], list(table.slots))
        self._transfers.apply_settings(build_transfer_settings(config, slots))
        forwarder.apply_settings(build_forwarder_settings(config, self.upstreams, table.active))
        forwarder.shares.apply_settings(build_share_settings(config))
        forwarder.delivery.query_log = build_query_log(config, self._secret)
        if isinstance(self._events, LoggedEvents) and before.log_level != config.log_level:
            self._events.debug = config.is_debug
        if self.cache is not None:
            self.cache.apply_settings(build_cache_settings(config))
        self.proxy.apply_settings(build_proxy_settings(config, forwarder.counters, self._secret))
        self._network_monitor.disownServiceParent()
        self._network_monitor = self._build_network_monitor()
        self.proxy.add_services([self._network_monitor])

    def _reload_tls_files(self) -> list[str]:
        """
        Use the present contents of the TLS files; return a phrase for each that has changed.

        :raises ConfigError: if they are not usable; then nothing changes.
        """
        files = read_usable_tls_files(self.config)
        changes = files.changes_since(self._files)
        if files != self._files:
            self._replace_credentials(files)
            self.check_upstreams()
        return changes

    def _replace_credentials(self, files: TlsFiles) -> None:
        """
        Verify every new connection with ``files``, and renew the present ones, also those of removed upstreams.
        """
        self._files = files
        self._credentials.replace(*files.credentials(self.config))
        for service in self.proxy:
            if isinstance(service, Upstream):
                service.renew()

    def _build_forwarder(self, services: list[IService]) -> None:
        config = self.config
        self.cache = build_cache(config)
        self.forwarder = build_forwarder(
            config, self._reactor, self.upstreams, self._transfers, self.cache, FailureCache(self._events)
        )
        self.forwarder.delivery.query_log = build_query_log(config, self._secret)
        if self.cache is not None and config.cache_file is not None:
            services.append(build_cache_file(self.cache, config.cache_file, config, self._reactor))

    def _build_proxy(self, source: ConfigSource) -> Proxy:
        config, reactor, share = self.config, self._reactor, self._share
        # A worker neither notifies systemd nor logs what the supervisor does for all.
        notifier = ServiceNotifier({} if share else os.environ, reactor)
        certificate = None
        if config.listen_tls:
            certificate = ListenerCertificate(config, clock=reactor, wall_time=time.time, is_quiet=share is not None)
        readiness = Readiness(self.report, notifier, clock=reactor, wall_time=time.time) if share is None else None
        proxy = Proxy(
            self,
            self.forwarder,
            build_proxy_settings(config, self.forwarder.counters, self._secret),
            reactor,
            notifier=notifier,
            sockets=share.sockets if share else inherited_sockets(config, initial_environment()),
            certificate=certificate,
            source=source,
            readiness=readiness,
            share=share,
        )
        proxy.add_services([notifier] if certificate is None else [notifier, certificate])
        return proxy

    def _build_network_monitor(self) -> NetworkMonitor:
        hosts = [[host for host, _ in address.addresses] for address in self.config.upstream]
        reached = list(zip(self.upstreams, hosts, strict=True))
        return NetworkMonitor(
            reached, on_move=self.forwarder.network_moved, reactor=self._reactor, monotonic=time.monotonic
        )


def _stop_all(upstreams: Sequence[Upstream]) -> None:
    for upstream in upstreams:
        upstream.disownServiceParent()


def _differ(before: Config, after: Config, keys: Sequence[str]) -> bool:
    return any(getattr(before, key) != getattr(after, key) for key in keys)
