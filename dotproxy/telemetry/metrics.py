"""
Prometheus metrics: what is counted, as a scraper wants it.

Decides names, help texts and labels; ``METRICS`` is all there are, and the documentation's table is made from it.
Counts nothing itself: numbers come in a report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dotproxy.telemetry.counters import RCODES, TRANSPORTS, TYPE_GROUPS, Counters, Histogram
from dotproxy.telemetry.labels import FIXED
from dotproxy.telemetry.report import Report, plaintext_by_purpose
from dotproxy.telemetry.status import State
from dotproxy.telemetry.versions import versions

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricDefinition(NamedTuple):
    """
    One metric: its name without ``dotproxy_``, its type, its labels, and what it says.
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


#: What ``upstream_up`` is; everything else is 0.
_UP = {State.UP: 1.0, State.SLOW: 0.5}


class DotproxyCollector(Collector):
    """
    Reads a report.
    """

    def __init__(self, report: Report, versions: dict[str, str]) -> None:
        self._report = report
        self._versions = versions

    def describe(self) -> Iterator[Metric]:
        """
        Say what there is, without reading anything.
        """
        for described in METRICS.values():
            yield _family(described.name)

    def collect(self) -> Iterator[Metric]:
        """
        Yield every metric, as it is now.
        """
        report = self._report
        counters = report.counters
        yield self._answers(counters)
        yield _single("unanswered_queries", counters.unanswered)
        yield _single("overload_refusals", counters.overload_refusals)
        shed = _family("shed_queries")
        for cause, count in sorted(counters.shed.items()):
            shed.add_metric([cause], count)
        yield shed
        times = _family("answer_seconds")
        _add_histogram(times, ["here"], counters.local_seconds)
        _add_histogram(times, ["asked"], counters.upstream_seconds)
        yield times
        yield _single("outstanding_queries", report.outstanding)
        lookups = _family("cache_lookups")
        for result, count in counters.lookups().items():
            lookups.add_metric([result], count)
        yield lookups
        yield _single("cache_prefetches", counters.prefetches)
        yield _single("cache_evictions", report.evicted)
        yield _single("cache_entries", report.entries)
        yield _single("cache_bytes", report.octets)
        yield from self._upstreams()
        yield _single("tcp_clients", report.tcp_clients)
        ended = _family("tcp_connections_ended")
        for end, count in sorted(counters.connections_ended.items()):
            ended.add_metric([end], count)
        yield ended
        yield from self._listeners()
        yield _single("udp_errors", report.udp_errors)
        yield _single("udp_drops", report.udp_drops)
        yield from self._processes()
        yield _single("ready", not report.not_ready)
        info = _family("build_info")
        info.add_metric([self._versions.get(label, "") for label in METRICS["build_info"].labels], 1)
        yield info

    def _listeners(self) -> Iterator[Any]:
        report = self._report
        yield _single("tls_clients", report.tls_clients)
        handshakes = _family("tls_handshakes")
        for outcome in FIXED["outcome"]:
            handshakes.add_metric([outcome], report.listeners.handshakes[outcome])
        yield handshakes
        errors = _family("proxy_protocol_errors")
        for over in FIXED["over"]:
            errors.add_metric([over], report.listeners.proxy_errors[over])
        yield errors
        expiry = _family("tls_certificate_expiry_timestamp_seconds")
        if report.tls_not_after is not None:
            expiry.add_metric([], report.tls_not_after)
        yield expiry

    def _processes(self) -> Iterator[Any]:
        cpu, resident = _family("worker_cpu_seconds"), _family("worker_resident_bytes")
        for name, seconds, octets in self._report.processes:
            cpu.add_metric([name], seconds)
            resident.add_metric([name], octets)
        yield _single("workers", len(self._report.processes))
        yield _single("worker_restarts", self._report.restarts)
        yield cpu
        yield resident

    def _answers(self, counters: Counters) -> Any:
        family = _family("answers")
        for kind, transport in enumerate(TRANSPORTS):
            for group, rtype in enumerate(TYPE_GROUPS):
                for rcode, name in enumerate(RCODES):
                    count = counters.answers[(kind * len(TYPE_GROUPS) + group) * 16 + rcode]
                    if count:
                        family.add_metric([transport, rtype, name], count)
        return family

    def _upstreams(self) -> Iterator[Any]:
        names = [name for name in METRICS if name.startswith("upstream_")]
        families = {name: _family(name) for name in names}
        for upstream in self._report.upstreams:
            label, counters = upstream.label, upstream.counters
            status = upstream.status
            families["upstream_up"].add_metric([label], _UP.get(status.state, 0))
            families["upstream_verified"].add_metric([label], status.is_working)
            families["upstream_failed_attempts"].add_metric([label], status.failures)
            if status.not_after is not None:
                families["upstream_certificate_expiry_timestamp_seconds"].add_metric([label], status.not_after)
            families["upstream_outstanding_queries"].add_metric([label], upstream.outstanding)
            for rcode, count in enumerate(counters.answers):
                if count:
                    families["upstream_answers"].add_metric([label, RCODES[rcode]], count)
            _add_histogram(families["upstream_answer_seconds"], [label], counters.answer_seconds)
            _add_histogram(families["upstream_wait_seconds"], [label], counters.wait_seconds)
            for name, value in (
                ("upstream_retries", counters.retries),
                ("upstream_hedges", counters.hedges),
                ("upstream_stalls", counters.stalls),
                ("upstream_connections_opened", counters.connections_opened),
            ):
                families[name].add_metric([label], value)
            for (by, reason), count in sorted(counters.connections_closed.items()):
                families["upstream_connections_closed"].add_metric([label, by, reason], count)
            for phase, count in sorted(counters.connect_failures.items()):
                families["upstream_connect_failures"].add_metric([label, phase], count)
            _add_histogram(families["upstream_handshake_seconds"], [label, "no"], counters.full_handshakes)
            _add_histogram(families["upstream_handshake_seconds"], [label, "yes"], counters.resumed_handshakes)
        yield from families.values()
        plaintext = _family("plaintext_queries")
        for purpose, count in plaintext_by_purpose(self._report).items():
            plaintext.add_metric([purpose], count)
        yield plaintext


class Metrics:
    """
    The text a scraper gets.
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
    Return what ``build_info`` says: the version of dotproxy, and of what it stands on.
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


_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(name: str) -> Any:
    _, kind, labels, text = METRICS[name]
    return _FAMILIES[kind](f"dotproxy_{name}", text, labels=labels)


def _single(name: str, value: float) -> Any:
    family = _family(name)
    family.add_metric([], value)
    return family


def _add_histogram(family: Any, labels: list[str], histogram: Histogram) -> None:
    """
    Prometheus counts in each bucket what is in those before it, too.
    """
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", total))
    family.add_metric(labels, buckets=buckets, sum_value=histogram.total)
