"""
The operator's view of a running proxy: how it is, and what can be done about it.

Decides what is shown, and what may be asked for.  How it is served is ``telemetry.web``'s.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint

from dotproxy import __version__
from dotproxy.config.model import Config
from dotproxy.errors import ConfigError, WireError
from dotproxy.policy.answers import AnswerCache
from dotproxy.proxy import Proxy
from dotproxy.telemetry.counters import Counters
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.telemetry.metrics import Metrics, versions
from dotproxy.telemetry.report import Report, UpstreamReport
from dotproxy.telemetry.web import AdminService, Command, make_site
from dotproxy.wire.names import from_text

_STATES = ("up", "slow", "down")
_PAGE = resource.getpagesize()


def report_of(proxy: Proxy, cache: AnswerCache | None, name: str = "1") -> Report:
    """
    Return what is known of a proxy in this process, which is called ``name``, at this moment.
    """
    forwarder = proxy.forwarder
    return Report(
        counters=forwarder.counted(),
        outstanding=forwarder.outstanding,
        entries=0 if cache is None else len(cache),
        octets=0 if cache is None else cache.octets,
        evicted=0 if cache is None else cache.evicted,
        tcp_clients=len(proxy.factory.connections),
        udp_errors=sum(port.errors for port in proxy.datagram_ports),
        udp_drops=sum(port.drops for port in proxy.datagram_ports),
        not_ready=_not_ready(proxy, cache),
        upstreams=[_upstream(one) for one in forwarder.asking.roster.asked],
        processes=[(name, *_spent())],
    )


def _upstream(one: Any) -> UpstreamReport:
    return UpstreamReport(one.label, one.counters, one.tier, one.outstanding, one.latency.p50, one.latency.p95)


def _not_ready(proxy: Proxy, cache: AnswerCache | None) -> str:
    """
    Why clients cannot expect answers, "" if they can: an upstream is usable, or there is something stale.
    """
    if proxy.is_draining:
        return "it is stopping"
    if proxy.forwarder.asking.roster.is_anyone_up:
        return ""
    if cache is not None and proxy.config.serve_stale and len(cache):
        return ""
    return "every upstream is down"


def _spent() -> tuple[float, int]:
    """
    CPU seconds of this process, and octets resident.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        resident = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE
    except (OSError, ValueError):
        resident = used.ru_maxrss * 1024
    return used.ru_utime + used.ru_stime, resident


def shown(report: Report, *, seconds: float, listening: list[tuple[str, int]]) -> dict[str, Any]:
    """
    Return all of a report that is for people, with for how long it has run, and where.
    """
    counters = report.counters
    return {
        "version": __version__,
        "seconds": round(seconds),
        "ready": not report.not_ready,
        "listening": [f"{host} {port}" for host, port in listening],
        "outstanding": report.outstanding,
        "answers": sum(counters.answers),
        "cache": {
            "entries": report.entries,
            "octets": report.octets,
            "evicted": report.evicted,
            "hit_rate": _hit_rate(counters),
            **{name: getattr(counters, name) for name in ("memo", "fresh", "stale", "joined", "missed")},
        },
        "upstreams": [_shown(upstream) for upstream in report.upstreams],
        "workers": [
            {"name": name, "cpu_seconds": round(cpu, 2), "resident": resident}
            for name, cpu, resident in report.processes
        ],
        "worker_restarts": report.restarts,
    }


def _shown(upstream: UpstreamReport) -> dict[str, Any]:
    counters = upstream.counters
    handshakes = sum(counters.full.counts), sum(counters.resumed.counts)
    return {
        "name": upstream.label,
        "state": _STATES[upstream.tier],
        "outstanding": upstream.outstanding,
        "answers": sum(counters.answers),
        "failures": counters.answers[2] + counters.answers[5],
        "p50_ms": _milliseconds(upstream.p50),
        "p95_ms": _milliseconds(upstream.p95),
        "connections_opened": counters.opened,
        "resumed": round(handshakes[1] / sum(handshakes), 3) if sum(handshakes) else None,
        "retries": counters.retries,
        "hedges": counters.hedges,
        "stalls": counters.stalls,
    }


class Commands:
    """
    What can be done; each takes arguments as text and returns what is answered, or raises ``ValueError``.
    """

    def __init__(self, proxy: Proxy, cache: AnswerCache | None, events: Events, stop: Callable[[], None]) -> None:
        self._proxy = proxy
        self._cache = cache
        self._events = events
        self._stop = stop

    def all(self) -> dict[str, Callable[[dict[str, str]], Any]]:
        """
        Return them by name.
        """
        return {"flush": self.flush, "reload": self.reload, "log": self.log, "drain": self.drain}

    def flush(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Forget answers: all, those to ``name``, or, with ``subtree``, those below it too.
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
        self._proxy.forwarder.flushed()
        return {"flushed": flushed}

    def reload(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Read the configuration again.
        """
        try:
            return {"changes": self._proxy.reload()}
        except ConfigError as error:
            raise ValueError("; ".join(error.problems)) from None

    def log(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Log at another ``level``.
        """
        level = given.get("level", "")
        if level not in ("info", "debug"):
            raise ValueError(f"{level!r} is no level; there are info and debug")
        if not isinstance(self._events, LoggedEvents):
            raise ValueError("nothing is logged here")
        self._events.debug = level == "debug"
        return {"level": level}

    def drain(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Stop, after answering what is outstanding.
        """
        self._stop()
        return {"draining": True}


def build_admin(
    config: Config,
    reactor: Any,
    look: Callable[[], Any],
    listening: Callable[[], list[tuple[str, int]]],
    commands: dict[str, Command],
) -> list[IService]:
    """
    Return what serves the operator: a look over HTTP, and commands over a socket.

    ``look`` returns a report, or a Deferred that will.
    """
    began = time.monotonic()
    metrics = Metrics(versions(__version__))

    def looking(how: Callable[[Report], Any]) -> Callable[[], Deferred[Any]]:
        def render() -> Deferred[Any]:
            looked: Deferred[Any] = maybeDeferred(look)
            return looked.addCallback(how)

        return render

    pages: dict[str, Any] = {
        "not_ready": looking(lambda report: report.not_ready),
        "metrics": looking(metrics.text),
        "status": looking(lambda report: shown(report, seconds=time.monotonic() - began, listening=listening())),
    }
    services: list[IService] = []
    if config.admin_listen is not None:
        host, port = config.admin_listen.host, config.admin_listen.port
        endpoint: Any = (TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint)(reactor, port, interface=host)
        services.append(AdminService(endpoint, make_site(**pages), f"{config.admin_listen}"))
    if config.admin_socket is not None:
        path = str(config.admin_socket)
        endpoint = UNIXServerEndpoint(reactor, path, mode=0o600, wantPID=False)
        services.append(AdminService(endpoint, make_site(**pages, commands=commands), path, path))
    return services


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _hit_rate(counters: Counters) -> float | None:
    hits = counters.memo + counters.fresh + counters.stale
    total = hits + counters.joined + counters.missed + counters.failed_before
    return round(hits / total, 4) if total else None
