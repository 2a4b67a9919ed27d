"""
Reports and commands of a running proxy, for its operator.

Decides which numbers a report has, and which commands there are.  How they are shown is ``admin.pages``'s.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred

from dotproxy.cache.responses import ResponseCache
from dotproxy.config.model import Config
from dotproxy.downstream.sockets import Endpoint
from dotproxy.errors import ConfigError, WireError
from dotproxy.service.admin.routes import Command
from dotproxy.service.proxy import Proxy
from dotproxy.service.reactor import IServiceReactor
from dotproxy.telemetry.counters import TCP, TLS, PlaintextCounters
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.telemetry.report import ProcessUsage, Report, UpstreamReport, verified_summary
from dotproxy.telemetry.status import State
from dotproxy.upstream.upstream import Upstream
from dotproxy.wire.names import from_text

_PAGE = resource.getpagesize()


def report_of(proxy: Proxy, cache: ResponseCache | None, plaintext: PlaintextCounters, name: str = "1") -> Report:
    """
    Return the numbers of a proxy in this process at this moment; ``name`` is the worker's.
    """
    forwarder = proxy.forwarder
    # The forwarder types upstreams as its own interface; here each is an ``Upstream``.
    active = cast(list[Upstream], forwarder.dispatcher.upstream_table.active_upstreams)
    upstreams = [_upstream(one) for one in active]
    return Report(
        counters=forwarder.counted(),
        outstanding=forwarder.outstanding,
        entries=0 if cache is None else len(cache),
        octets=0 if cache is None else cache.octets,
        evicted=0 if cache is None else cache.evicted,
        tcp_clients=sum(one.kind == TCP for one in proxy.factory.connections),
        tls_clients=sum(one.kind == TLS for one in proxy.factory.connections),
        udp_errors=sum(port.errors for port in proxy.datagram_ports),
        udp_drops=sum(port.drops for port in proxy.datagram_ports),
        not_ready=_not_ready(proxy, upstreams),
        upstreams=upstreams,
        processes=[_usage(name)],
        plaintext=plaintext,
        listeners=proxy.listener_counters,
        tls_addresses=proxy.tls_addresses,
        tls_not_after=proxy.certificate.not_after if proxy.certificate is not None else None,
    )


def _upstream(one: Upstream) -> UpstreamReport:
    return UpstreamReport(
        one.label, one.counters, one.status_record.status, one.outstanding, one.latency.p50, one.latency.p95
    )


def _not_ready(proxy: Proxy, upstreams: Sequence[UpstreamReport]) -> str:
    """
    Return why the proxy is not ready; "" if an upstream was verified and has not failed since.

    Responses in the cache do not make it ready: they answer only some queries, for some time.
    """
    if proxy.is_draining:
        return "it is stopping"
    if any(one.status.is_working for one in upstreams):
        return ""
    if upstreams and all(one.status.state == State.DOWN for one in upstreams):
        return f"every upstream is down: {verified_summary(upstreams)}"
    return f"no upstream is verified: {verified_summary(upstreams)}"


def _usage(name: str) -> ProcessUsage:
    """
    Return the CPU time and resident memory of this process.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        _, resident_pages, *_ = Path("/proc/self/statm").read_bytes().split()
        resident = int(resident_pages) * _PAGE
    except (OSError, ValueError):
        resident = used.ru_maxrss * 1024
    return ProcessUsage(name, used.ru_utime + used.ru_stime, resident)


class Commands:
    """
    The operator's commands; each takes arguments as text and returns a JSON object, or raises ``ValueError``.
    """

    def __init__(self, proxy: Proxy, cache: ResponseCache | None, events: Events, stop: Callable[[], None]) -> None:
        self._proxy = proxy
        self._cache = cache
        self._events = events
        self._stop = stop

    def all(self) -> dict[str, Command]:
        """
        Return every command by its name.
        """
        return {"flush": self.flush, "reload": self.reload, "log": self.log, "drain": self.drain}

    def flush(self, given: dict[str, str]) -> dict[str, object]:
        """
        Remove responses from the cache: all, those for ``name``, or with ``subtree`` also those below it.
        """
        if self._cache is None:
            raise ValueError("there is no cache")
        text = given.get("name", "")
        try:
            name = from_text(text if text.endswith(".") else text + ".") if text else b""
        except WireError as error:
            raise ValueError(error.reason) from None
        if not name:
            flushed = self._cache.flush()
        elif given.get("subtree"):
            flushed = self._cache.flush_subtree(name)
        else:
            flushed = self._cache.flush_name(name)
        self._proxy.forwarder.cache_flushed()
        return {"flushed": flushed}

    def reload(self, given: dict[str, str]) -> dict[str, list[str]]:
        """
        Reload the configuration.
        """
        return reload_command(self._proxy)

    def log(self, given: dict[str, str]) -> dict[str, object]:
        """
        Set the log level to ``level``: info or debug.
        """
        level = given.get("level", "")
        if level not in ("info", "debug"):
            raise ValueError(f"{level!r} is no level; there are info and debug")
        if not isinstance(self._events, LoggedEvents):
            raise ValueError("nothing is logged here")
        self._events.debug = level == "debug"
        return {"level": level}

    def drain(self, given: dict[str, str]) -> dict[str, object]:
        """
        Answer outstanding queries, and stop.
        """
        self._stop()
        return {"draining": True}


class Reloads(Protocol):
    """
    A proxy, or a supervisor of several processes.
    """

    def reload(self) -> list[str]:
        """
        Reload the configuration; return a phrase for each change.
        """


def reload_command(proxy: Reloads) -> dict[str, list[str]]:
    """
    Reload the configuration; return its changes, as the admin socket answers.

    :raises ValueError: with a line for each problem, if it is not usable.
    """
    try:
        return {"changes": proxy.reload()}
    except ConfigError as error:
        raise ValueError("\n".join(error.problems)) from None


def build_admin(
    config: Config,
    reactor: IServiceReactor,
    look: Callable[[], Deferred[Report]],
    listening: Callable[[], Sequence[Endpoint]],
    commands: Mapping[str, Command],
) -> list[IService]:
    """
    Return the services of the admin address and the admin socket, if they are configured; see ``admin.pages``.

    ``look`` returns a Deferred of a report, ``listening`` where clients are served.
    """
    if config.admin_listen is None and config.admin_socket is None:
        return []
    from dotproxy.service.admin.pages import build_site

    return build_site(config, reactor, look, listening, commands)
