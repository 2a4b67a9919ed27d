"""
The pages of the admin address and the admin socket.

Decides what of a report ``/status`` shows, and which Host headers are accepted.  Paths and status codes are
``routes``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar, cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred, execute, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint, ITransport
from twisted.internet.protocol import ServerFactory
from zope.interface import implementer

from dotproxy import __version__
from dotproxy.config.model import Config
from dotproxy.downstream.sockets import Endpoint, bind_stream, has_address
from dotproxy.service.admin.hosts import is_loopback, is_own_host
from dotproxy.service.admin.http import Request
from dotproxy.service.admin.routes import AdminService, Command, Guard, Pages, make_site, peer_guard
from dotproxy.service.reactor import IServiceReactor
from dotproxy.telemetry.counters import Counters
from dotproxy.telemetry.metrics import Metrics, build_info
from dotproxy.telemetry.report import Report, UpstreamReport, plaintext_by_purpose
from dotproxy.telemetry.status import State
from dotproxy.wire.message import REFUSED, SERVFAIL

_STATES = {
    State.UP: "up",
    State.SLOW: "slow",
    State.UNVERIFIED: "not verified yet",
    State.DOWN: "down",
    State.UNSERVED: "not served",
}


Rendered = TypeVar("Rendered")


def build_site(
    config: Config,
    reactor: IServiceReactor,
    look: Callable[[], Deferred[Report]],
    listening: Callable[[], Sequence[Endpoint]],
    commands: Mapping[str, Command],
) -> list[IService]:
    """
    Return the services of the admin address (pages) and the admin socket (pages and commands).

    ``look`` returns a Deferred of a report, ``listening`` where clients are served.
    """
    began = time.monotonic()
    metrics = Metrics(build_info(__version__))

    def rendered(render: Callable[[Report], Rendered]) -> Callable[[], Deferred[Rendered]]:
        def begin() -> Deferred[Rendered]:
            report: Deferred[Report] = maybeDeferred(look)
            return report.addCallback(render)

        return begin

    pages = Pages(
        not_ready=rendered(lambda report: report.not_ready),
        metrics=rendered(metrics.text),
        status=rendered(lambda report: status_page(report, seconds=time.monotonic() - began, listening=listening())),
        clock=reactor,
    )
    services: list[IService] = []
    if config.admin_listen is not None:
        endpoint: IStreamServerEndpoint = _endpoint(reactor, config.admin_listen.host, config.admin_listen.port)
        site = make_site(pages, _host_guard(config.admin_listen.host, config.admin_hosts), reactor)
        services.append(AdminService(endpoint, site, f"{config.admin_listen}"))
    if config.admin_socket is not None:
        path = str(config.admin_socket)
        endpoint = UNIXServerEndpoint(reactor, path, mode=0o600, wantPID=False)
        services.append(AdminService(endpoint, make_site(pages, peer_guard, reactor, commands), path, path))
    return services


def _host_guard(address: str, names: tuple[str, ...]) -> Guard:
    """
    Return a guard that refuses requests which a foreign web page can cause; see ``hosts``.
    """
    at_loopback = is_loopback(address)

    def guard(request: Request, transport: ITransport) -> str:
        if is_own_host(request.host, at_loopback=at_loopback, names=names):
            return ""
        return "this Host is not accepted: use an address, or add the name to admin_hosts"

    return guard


@implementer(IStreamServerEndpoint)
class AbsentAddressEndpoint:
    """
    A TCP endpoint at an address that this machine does not have yet.
    """

    def __init__(self, reactor: IServiceReactor, host: str, port: int) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen; the Deferred fails with ``CannotBind``.
        """
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        with bind_stream(self._host, self._port) as bound:  # the reactor duplicates the descriptor
            return self._reactor.adoptStreamPort(bound.fileno(), bound.family, cast(ServerFactory, factory))


def _endpoint(reactor: IServiceReactor, host: str, port: int) -> IStreamServerEndpoint:
    if not has_address(host):
        return AbsentAddressEndpoint(reactor, host, port)
    return (TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint)(reactor, port, interface=host)


def status_page(report: Report, *, seconds: float, listening: Sequence[Endpoint]) -> dict[str, object]:
    """
    Return the JSON object of ``/status``; ``seconds`` is for how long the service has run.
    """
    counters, lookups = report.counters, report.counters.lookups()
    return {
        "version": __version__,
        "seconds": round(seconds),
        "ready": not report.not_ready,
        "not_ready": report.not_ready,
        "listening": [str(endpoint) for endpoint in listening],
        "listening_tls": report.tls_addresses,
        "tls_certificate_expires": None if report.tls_not_after is None else _moment(report.tls_not_after),
        "outstanding": report.outstanding,
        "answers": sum(counters.answers),
        "plaintext_queries": plaintext_by_purpose(report),
        "queries_per_second": None if report.rate is None else round(report.rate, 1),
        "cache": {
            "entries": report.entries,
            "octets": report.octets,
            "evicted": report.evicted,
            "hit_rate": _hit_rate(counters),
            **{name: lookups[name] for name in ("memo", "fresh", "stale", "joined", "missed")},
        },
        "upstreams": [_status_of(upstream, time.time()) for upstream in report.upstreams],
        "workers": [
            {"name": one.name, "cpu_seconds": round(one.cpu_seconds, 2), "resident": one.resident_octets}
            for one in report.processes
        ],
        "worker_restarts": report.restarts,
    }


def _status_of(upstream: UpstreamReport, date: float) -> dict[str, object]:
    counters, status = upstream.counters, upstream.status
    full, resumed = sum(counters.full_handshakes.counts), sum(counters.resumed_handshakes.counts)
    return {
        "name": upstream.label,
        "state": _STATES[status.state],
        "verified": status.is_working,
        "error": status.error or None,
        "down_since": _moment(date - status.down_for) if status.failures else None,
        "down_seconds": round(status.down_for, 1) if status.failures else None,
        "failed_attempts": status.failures,
        "certificate_expires": None if status.not_after is None else _moment(status.not_after),
        "certificate_days_left": None if status.not_after is None else _days(status.not_after - date),
        "outstanding": upstream.outstanding,
        "answers": sum(counters.answers),
        "failures": counters.answers[SERVFAIL] + counters.answers[REFUSED],
        "failed_connections": sum(counters.connect_failures.values()),
        "p50_ms": _milliseconds(upstream.p50),
        "p95_ms": _milliseconds(upstream.p95),
        "connections_opened": counters.connections_opened,
        "resumed": round(resumed / (full + resumed), 3) if full + resumed else None,
        "retries": counters.retries,
        "hedges": counters.hedges,
        "stalls": counters.stalls,
    }


def _moment(date: float) -> str:
    return datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _days(seconds: float) -> float:
    return round(seconds / 86400, 1)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _hit_rate(counters: Counters) -> float | None:
    hits = counters.packet_cache_hits + counters.cache_hits + counters.stale_responses
    total = hits + counters.joined + counters.cache_misses + counters.failure_cache_hits
    return round(hits / total, 4) if total else None
