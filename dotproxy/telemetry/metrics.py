"""
Prometheus metrics: a report in the text format that scrapers read.

Decides names, types, labels and help texts: ``METRICS`` has them all, and the table of docs/metrics.md is made from it.
Counts nothing: the numbers come from a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dotproxy.telemetry.counters import RCODES, TRANSPORTS, TYPE_GROUPS, Counters, Histogram, UpstreamCounters
from dotproxy.telemetry.labels import FIXED
from dotproxy.telemetry.report import Report, UpstreamReport, plaintext_by_purpose
from dotproxy.telemetry.status import State
from dotproxy.telemetry.versions import versions

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


#: Label values and a number, or a histogram.
Sample = tuple[list[str], float]
HistogramSample = tuple[list[str], Histogram]


class MetricDefinition(NamedTuple):
    """
    A metric: its name without the prefix ``dotproxy_``, its type, its labels and its help text.
    """

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


METRICS = {
    metric.name: metric
    for metric in (
        MetricDefinition("answers", "counter", ("transport", "type", "rcode"), "Responses sent to clients."),
        MetricDefinition(
            "unanswered_queries", "counter", (), "Messages that got no response: not a query, or shorter than a header."
        ),
        MetricDefinition(
            "overload_refusals",
            "counter",
            (),
            "Queries answered with SERVFAIL because too many were in flight (max_outstanding, or 16 MiB).",
        ),
        MetricDefinition(
            "shed_queries",
            "counter",
            ("cause",),
            "Queries dropped or limited, by overload protection or because of their client.",
        ),
        MetricDefinition(
            "answer_seconds",
            "histogram",
            ("where",),
            "Time from a query to its response: here (no upstream was queried), or asked.",
        ),
        MetricDefinition("outstanding_queries", "gauge", (), "Clients' queries without a response yet."),
        MetricDefinition(
            "cache_lookups",
            "counter",
            ("result",),
            "Cache lookups: memo (packet cache hit), fresh (cache hit), stale, failed_before (failure cache hit),"
            " joined (an identical query was in flight), missed.",
        ),
        MetricDefinition("cache_prefetches", "counter", (), "Popular responses refreshed before they expired."),
        MetricDefinition("cache_evictions", "counter", (), "Responses evicted because the cache was full."),
        MetricDefinition("cache_entries", "gauge", (), "Responses in the cache."),
        MetricDefinition("cache_bytes", "gauge", (), "Approximate memory of the cache."),
        MetricDefinition(
            "upstream_up",
            "gauge",
            ("upstream",),
            "State of the upstream: 1 if it is verified and works, 0.5 if it is slow, 0 if it is down or was not tried"
            " yet.",
        ),
        MetricDefinition(
            "upstream_verified",
            "gauge",
            ("upstream",),
            "Whether a handshake was verified and nothing has failed since: 1 or 0.",
        ),
        MetricDefinition(
            "upstream_failed_attempts",
            "gauge",
            ("upstream",),
            "Failed attempts since the upstream last worked; 0 while upstream_up is 0 means it was not tried yet.",
        ),
        MetricDefinition(
            "upstream_certificate_expiry_timestamp_seconds",
            "gauge",
            ("upstream",),
            "Expiry of the upstream's certificate that was verified last, in seconds since 1970.",
        ),
        MetricDefinition(
            "upstream_outstanding_queries", "gauge", ("upstream",), "Queries to the upstream without a response yet."
        ),
        MetricDefinition("upstream_answers", "counter", ("upstream", "rcode"), "Responses from the upstream."),
        MetricDefinition(
            "upstream_answer_seconds", "histogram", ("upstream",), "Time from a query to the upstream's response."
        ),
        MetricDefinition(
            "upstream_wait_seconds",
            "histogram",
            ("upstream",),
            "Time that queries waited for a connection to the upstream.",
        ),
        MetricDefinition(
            "upstream_retries", "counter", ("upstream",), "Queries to the upstream that were overdue and sent again."
        ),
        MetricDefinition(
            "upstream_hedges",
            "counter",
            ("upstream",),
            "Queries to the upstream that were slow and also sent to another upstream.",
        ),
        MetricDefinition(
            "upstream_stalls", "counter", ("upstream",), "Connections to the upstream that stopped responding."
        ),
        MetricDefinition(
            "upstream_connections_opened", "counter", ("upstream",), "Verified connections to the upstream."
        ),
        MetricDefinition(
            "upstream_connections_closed",
            "counter",
            ("upstream", "by", "reason"),
            "Connections to the upstream that ended.",
        ),
        MetricDefinition(
            "upstream_connect_failures", "counter", ("upstream", "phase"), "Failed attempts to connect to the upstream."
        ),
        MetricDefinition(
            "upstream_handshake_seconds",
            "histogram",
            ("upstream", "resumed"),
            "Time to connect to the upstream: TCP and TLS handshakes.",
        ),
        MetricDefinition(
            "plaintext_queries",
            "counter",
            ("purpose",),
            "Queries sent without TLS: upstream (must be 0), or bootstrap (0 unless bootstrap has udp://).",
        ),
        MetricDefinition("tcp_clients", "gauge", (), "Clients connected over TCP."),
        MetricDefinition(
            "tcp_connections_ended", "counter", ("end",), "Client connections that dotproxy closed or refused."
        ),
        MetricDefinition("tls_clients", "gauge", (), "Clients connected over TLS, including handshakes in progress."),
        MetricDefinition("tls_handshakes", "counter", ("outcome",), "TLS handshakes with clients."),
        MetricDefinition(
            "tls_certificate_expiry_timestamp_seconds",
            "gauge",
            (),
            "Expiry of the certificate presented to clients, in seconds since 1970.",
        ),
        MetricDefinition(
            "proxy_protocol_errors",
            "counter",
            ("over",),
            "Datagrams and connections from proxy_protocol_from without a valid PROXY header; they are dropped.",
        ),
        MetricDefinition("udp_errors", "counter", (), "Errors of the kernel when reading or sending datagrams."),
        MetricDefinition(
            "udp_drops", "counter", (), "Datagrams dropped by the kernel because the receive buffer was full (Linux)."
        ),
        MetricDefinition("workers", "gauge", (), "Worker processes."),
        MetricDefinition("worker_restarts", "counter", (), "Workers that ended and were started again."),
        MetricDefinition("worker_cpu_seconds", "counter", ("worker",), "CPU time of the worker since its start."),
        MetricDefinition("worker_resident_bytes", "gauge", ("worker",), "Resident memory of the worker."),
        MetricDefinition("ready", "gauge", (), "Whether clients can expect responses: 1 or 0."),
        MetricDefinition(
            "build_info",
            "gauge",
            ("version", "python", "twisted", "openssl", "pyopenssl"),
            "Versions of dotproxy and its dependencies; always 1.",
        ),
    )
}


#: Values of ``upstream_up``; for any other state it is 0.
_UP = {State.UP: 1.0, State.SLOW: 0.5}


class DotproxyCollector(Collector):
    """
    A Prometheus collector that presents one report.
    """

    def __init__(self, report: Report, versions: dict[str, str]) -> None:
        self._report = report
        self._versions = versions

    def describe(self) -> Iterator[Metric]:
        """
        Yield every metric without samples.
        """
        for name, metric in METRICS.items():
            yield _histograms(name, ()) if metric.type == "histogram" else _numbers(name, ())

    def collect(self) -> Iterator[Metric]:
        """
        Yield every metric with the numbers of the report.
        """
        report = self._report
        yield from self._queries()
        yield from self._cache()
        yield from self._upstreams()
        yield _numbers("plaintext_queries", (([use], n) for use, n in plaintext_by_purpose(report).items()))
        yield from self._listeners()
        yield from self._processes()
        yield _number("ready", not report.not_ready)
        versions = [self._versions.get(label, "") for label in METRICS["build_info"].labels]
        yield _numbers("build_info", [(versions, 1)])

    def _queries(self) -> Iterator[Metric]:
        counters = self._report.counters
        yield _numbers("answers", _answer_samples(counters))
        yield _number("unanswered_queries", counters.unanswered)
        yield _number("overload_refusals", counters.overload_refusals)
        yield _numbers("shed_queries", (([cause], n) for cause, n in sorted(counters.shed.items())))
        yield _histograms(
            "answer_seconds", ((["here"], counters.local_seconds), (["asked"], counters.upstream_seconds))
        )
        yield _number("outstanding_queries", self._report.outstanding)

    def _cache(self) -> Iterator[Metric]:
        report, counters = self._report, self._report.counters
        yield _numbers("cache_lookups", (([result], n) for result, n in counters.lookups().items()))
        yield _number("cache_prefetches", counters.prefetches)
        yield _number("cache_evictions", report.evicted)
        yield _number("cache_entries", report.entries)
        yield _number("cache_bytes", report.octets)

    def _listeners(self) -> Iterator[Metric]:
        report, listeners = self._report, self._report.listeners
        yield _number("tcp_clients", report.tcp_clients)
        ended = sorted(report.counters.connections_ended.items())
        yield _numbers("tcp_connections_ended", (([end], n) for end, n in ended))
        yield _number("tls_clients", report.tls_clients)
        outcomes, transports = FIXED["outcome"], FIXED["over"]
        yield _numbers("tls_handshakes", (([outcome], listeners.handshakes[outcome]) for outcome in outcomes))
        yield _numbers("proxy_protocol_errors", (([over], listeners.proxy_errors[over]) for over in transports))
        expiry = report.tls_not_after
        yield _numbers("tls_certificate_expiry_timestamp_seconds", [] if expiry is None else [([], expiry)])
        yield _number("udp_errors", report.udp_errors)
        yield _number("udp_drops", report.udp_drops)

    def _processes(self) -> Iterator[Metric]:
        processes = self._report.processes
        yield _number("workers", len(processes))
        yield _number("worker_restarts", self._report.restarts)
        yield _numbers("worker_cpu_seconds", (([one.name], one.cpu_seconds) for one in processes))
        yield _numbers("worker_resident_bytes", (([one.name], one.resident_octets) for one in processes))

    def _upstreams(self) -> Iterator[Metric]:
        upstreams = self._report.upstreams
        for name, read in _UPSTREAM_NUMBERS.items():
            yield _numbers(name, (([one.label], value) for one in upstreams if (value := read(one)) is not None))
        for name, samples in _UPSTREAM_COUNTERS.items():
            yield _numbers(
                name, (([one.label, *labels], n) for one in upstreams for labels, n in samples(one.counters))
            )
        for name, histograms in _UPSTREAM_HISTOGRAMS.items():
            yield _histograms(
                name,
                (([one.label, *labels], seconds) for one in upstreams for labels, seconds in histograms(one.counters)),
            )


def _answer_samples(counters: Counters) -> Iterator[Sample]:
    for kind, transport in enumerate(TRANSPORTS):
        for group, rtype in enumerate(TYPE_GROUPS):
            for rcode, name in enumerate(RCODES):
                count = counters.answers[(kind * len(TYPE_GROUPS) + group) * 16 + rcode]
                if count:
                    yield [transport, rtype, name], count


#: Metrics with one number for each upstream; None is omitted.
_UPSTREAM_NUMBERS: dict[str, Callable[[UpstreamReport], float | None]] = {
    "upstream_up": lambda one: _UP.get(one.status.state, 0),
    "upstream_verified": lambda one: one.status.is_working,
    "upstream_failed_attempts": lambda one: one.status.failures,
    "upstream_certificate_expiry_timestamp_seconds": lambda one: one.status.not_after,
    "upstream_outstanding_queries": lambda one: one.outstanding,
    "upstream_retries": lambda one: one.counters.retries,
    "upstream_hedges": lambda one: one.counters.hedges,
    "upstream_stalls": lambda one: one.counters.stalls,
    "upstream_connections_opened": lambda one: one.counters.connections_opened,
}

#: Metrics with several numbers for each upstream, by further labels.
_UPSTREAM_COUNTERS: dict[str, Callable[[UpstreamCounters], Iterable[Sample]]] = {
    "upstream_answers": lambda counters: (([RCODES[rcode]], n) for rcode, n in enumerate(counters.answers) if n),
    "upstream_connections_closed": lambda counters: (
        ([by, reason], n) for (by, reason), n in sorted(counters.connections_closed.items())
    ),
    "upstream_connect_failures": lambda counters: (
        ([phase], n) for phase, n in sorted(counters.connect_failures.items())
    ),
}

#: Histograms of an upstream, by further labels.
_UPSTREAM_HISTOGRAMS: dict[str, Callable[[UpstreamCounters], Iterable[HistogramSample]]] = {
    "upstream_answer_seconds": lambda counters: [([], counters.answer_seconds)],
    "upstream_wait_seconds": lambda counters: [([], counters.wait_seconds)],
    "upstream_handshake_seconds": lambda counters: [
        (["no"], counters.full_handshakes),
        (["yes"], counters.resumed_handshakes),
    ],
}


class Metrics:
    """
    The metrics page: metrics of a report, and of this process.
    """

    def __init__(self, versions: dict[str, str]) -> None:
        self._versions = versions
        self._of_this_process = CollectorRegistry()
        ProcessCollector(registry=self._of_this_process)
        PlatformCollector(registry=self._of_this_process)
        GCCollector(registry=self._of_this_process)

    def text(self, report: Report) -> bytes:
        """
        Return all metrics in Prometheus' text format.
        """
        registry = CollectorRegistry()
        registry.register(DotproxyCollector(report, self._versions))
        return generate_latest(registry) + generate_latest(self._of_this_process)


def build_info(dotproxy: str) -> dict[str, str]:
    """
    Return the labels of ``build_info``: the versions of dotproxy and of its dependencies.
    """
    return {"version": dotproxy, **{name.lower(): version for name, version in versions().items()}}


def metrics_table() -> str:
    """
    Return the table of all metrics, in Markdown.
    """
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, text in METRICS.values():
        shown = ", ".join(f"`{label}`" for label in labels) or "–"
        lines.append(f"| `dotproxy_{name}{'_total' if kind == 'counter' else ''}` | {kind} | {shown} | {text} |")
    return "\n".join(lines) + "\n"


def _numbers(name: str, samples: Iterable[Sample]) -> Metric:
    """
    Return a counter or gauge with one number for each list of label values.
    """
    metric = METRICS[name]
    family_class = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    family = family_class(f"dotproxy_{name}", metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _number(name: str, value: float) -> Metric:
    return _numbers(name, [([], value)])


def _histograms(name: str, samples: Iterable[HistogramSample]) -> Metric:
    """
    Return a metric with one histogram for each list of label values.

    Buckets are cumulative, as Prometheus requires: each counts all durations up to its upper bound.
    """
    metric = METRICS[name]
    family = HistogramMetricFamily(f"dotproxy_{name}", metric.help, labels=metric.labels)
    for labels, histogram in samples:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", total))
        family.add_metric(labels, buckets, histogram.total)
    return family
