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
        MetricDefinition("answers", "counter", ("transport", "type", "rcode"), "Answers given to clients."),
        MetricDefinition("unanswered_queries", "counter", (), "Messages that got no answer: no queries, or too short."),
        MetricDefinition("overload_refusals", "counter", (), "Queries refused because too many were outstanding."),
        MetricDefinition(
            "shed_queries",
            "counter",
            ("cause",),
            "Queries that were not processed, so that others are answered in time.",
        ),
        MetricDefinition(
            "answer_seconds",
            "histogram",
            ("where",),
            "Time to an answer: here (without asking), or asked.",
        ),
        MetricDefinition("outstanding_queries", "gauge", (), "Queries of clients that have no answer yet."),
        MetricDefinition(
            "cache_lookups",
            "counter",
            ("result",),
            "What became of queries: memo and fresh (kept), stale, failed_before, joined (to one outstanding), missed.",
        ),
        MetricDefinition("cache_prefetches", "counter", (), "Popular answers asked for anew before they ended."),
        MetricDefinition("cache_evictions", "counter", (), "Answers thrown out for want of room."),
        MetricDefinition("cache_entries", "gauge", (), "Answers kept."),
        MetricDefinition("cache_bytes", "gauge", (), "About how much memory they take."),
        MetricDefinition(
            "upstream_up",
            "gauge",
            ("upstream",),
            "Whether an upstream is verified and works: 1, 0.5 if it is slow, 0 if it is down or was not tried yet.",
        ),
        MetricDefinition(
            "upstream_verified",
            "gauge",
            ("upstream",),
            "Whether a handshake with it was verified and nothing has failed since: 1 or 0.",
        ),
        MetricDefinition(
            "upstream_failed_attempts",
            "gauge",
            ("upstream",),
            "Failed attempts since it last worked; 0 with upstream_up 0: it was not tried yet.",
        ),
        MetricDefinition(
            "upstream_certificate_expiry_timestamp_seconds",
            "gauge",
            ("upstream",),
            "When the certificate that was verified last expires, in seconds since 1970.",
        ),
        MetricDefinition("upstream_outstanding_queries", "gauge", ("upstream",), "Questions it has not answered yet."),
        MetricDefinition("upstream_answers", "counter", ("upstream", "rcode"), "Its answers."),
        MetricDefinition("upstream_answer_seconds", "histogram", ("upstream",), "Time from a question to its answer."),
        MetricDefinition(
            "upstream_wait_seconds", "histogram", ("upstream",), "Time questions waited for a connection to it."
        ),
        MetricDefinition(
            "upstream_retries", "counter", ("upstream",), "Questions of its that were overdue, and asked again."
        ),
        MetricDefinition(
            "upstream_hedges", "counter", ("upstream",), "Questions of its that were slow, and asked elsewhere."
        ),
        MetricDefinition("upstream_stalls", "counter", ("upstream",), "Connections to it that were found silent."),
        MetricDefinition("upstream_connections_opened", "counter", ("upstream",), "Verified connections."),
        MetricDefinition(
            "upstream_connections_closed",
            "counter",
            ("upstream", "by", "reason"),
            "Connections that ended.",
        ),
        MetricDefinition("upstream_connect_failures", "counter", ("upstream", "phase"), "Connections that failed."),
        MetricDefinition(
            "upstream_handshake_seconds",
            "histogram",
            ("upstream", "resumed"),
            "Time to connect, TCP included.",
        ),
        MetricDefinition(
            "plaintext_queries",
            "counter",
            ("purpose",),
            "Queries that left without TLS: upstream (must be 0), or bootstrap (0 unless bootstrap has udp://).",
        ),
        MetricDefinition("tcp_clients", "gauge", (), "Clients connected over TCP."),
        MetricDefinition(
            "tcp_connections_ended", "counter", ("end",), "Connections of clients that dotproxy ended or refused."
        ),
        MetricDefinition("tls_clients", "gauge", (), "Clients connected over TLS, handshakes under way included."),
        MetricDefinition("tls_handshakes", "counter", ("outcome",), "TLS handshakes of clients."),
        MetricDefinition(
            "tls_certificate_expiry_timestamp_seconds",
            "gauge",
            (),
            "When the certificate that clients are shown expires, in seconds since 1970.",
        ),
        MetricDefinition(
            "proxy_protocol_errors",
            "counter",
            ("over",),
            "Datagrams and connections from proxy_protocol_from without a valid PROXY header; they are dropped.",
        ),
        MetricDefinition("udp_errors", "counter", (), "Datagrams that the kernel did not take or give."),
        MetricDefinition("udp_drops", "counter", (), "Datagrams for which the kernel had no room (Linux)."),
        MetricDefinition("workers", "gauge", (), "Processes that serve."),
        MetricDefinition("worker_restarts", "counter", (), "Workers that ended and were started again."),
        MetricDefinition("worker_cpu_seconds", "counter", ("worker",), "CPU time of one, since it was started."),
        MetricDefinition("worker_resident_bytes", "gauge", ("worker",), "Memory of one."),
        MetricDefinition("ready", "gauge", (), "Whether clients can expect answers."),
        MetricDefinition(
            "build_info", "gauge", ("version", "python", "twisted", "openssl", "pyopenssl"), "What runs; always 1."
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


#: Metrics with one number an upstream; None is left out.
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

#: Metrics with several numbers an upstream, by further labels.
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
    lines = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
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

    Prometheus' buckets are cumulative: each counts what is below its upper bound.
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
