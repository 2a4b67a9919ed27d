"""
Prometheus metrics: what is counted, as a scraper wants it.

Decides names, help texts and labels; ``METRICS`` is all there are, and the documentation's table is made from it.
Counts nothing itself: numbers are read when somebody asks, from wherever they are.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dotproxy.telemetry.counters import RCODES, TRANSPORTS, TYPE_GROUPS, Counters, Histogram, UpstreamCounters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Described(NamedTuple):
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
        Described("answers", "counter", ("transport", "type", "rcode"), "Answers given to clients."),
        Described("unanswered_queries", "counter", (), "Messages that got no answer: no queries, or too short."),
        Described("overload_refusals", "counter", (), "Queries refused because too many were outstanding."),
        Described(
            "answer_seconds",
            "histogram",
            ("where",),
            "Time to an answer: here (without asking), or asked.",
        ),
        Described("outstanding_queries", "gauge", (), "Queries of clients that have no answer yet."),
        Described(
            "cache_lookups",
            "counter",
            ("result",),
            "What became of queries: memo and fresh (kept), stale, failed_before, joined (to one outstanding), missed.",
        ),
        Described("cache_prefetches", "counter", (), "Popular answers asked for anew before they ended."),
        Described("cache_evictions", "counter", (), "Answers thrown out for want of room."),
        Described("cache_entries", "gauge", (), "Answers kept."),
        Described("cache_bytes", "gauge", (), "About how much memory they take."),
        Described("upstream_up", "gauge", ("upstream",), "Whether an upstream is up: 1, 0.5 if it is slow, 0."),
        Described("upstream_outstanding_queries", "gauge", ("upstream",), "Questions it has not answered yet."),
        Described("upstream_answers", "counter", ("upstream", "rcode"), "Its answers."),
        Described("upstream_answer_seconds", "histogram", ("upstream",), "Time from a question to its answer."),
        Described("upstream_wait_seconds", "histogram", ("upstream",), "Time questions waited for a connection to it."),
        Described("upstream_retries", "counter", ("upstream",), "Questions of its that were overdue, and asked again."),
        Described("upstream_hedges", "counter", ("upstream",), "Questions of its that were slow, and asked elsewhere."),
        Described("upstream_stalls", "counter", ("upstream",), "Connections to it that were found silent."),
        Described("upstream_connections_opened", "counter", ("upstream",), "Verified connections."),
        Described(
            "upstream_connections_closed",
            "counter",
            ("upstream", "by", "reason"),
            "Connections that ended.",
        ),
        Described("upstream_connect_failures", "counter", ("upstream", "phase"), "Connections that failed."),
        Described(
            "upstream_handshake_seconds",
            "histogram",
            ("upstream", "resumed"),
            "Time to connect, TCP included.",
        ),
        Described("plaintext_queries", "counter", (), "Questions that left without TLS. Must be 0."),
        Described("tcp_clients", "gauge", (), "Clients connected over TCP."),
        Described("udp_errors", "counter", (), "Datagrams that the kernel did not take or give."),
        Described("ready", "gauge", (), "Whether clients can expect answers."),
        Described("build_info", "gauge", ("version", "python", "twisted", "openssl"), "What runs; always 1."),
    )
}


class UpstreamSource(NamedTuple):
    """
    Where the numbers of one upstream come from.
    """

    label: str
    counters: UpstreamCounters
    tier: Callable[[], int]
    outstanding: Callable[[], int]


class Sources(NamedTuple):
    """
    Where all numbers come from; called at each scrape.  ``cache`` returns entries, octets and evictions.
    """

    counters: Callable[[], Counters]
    outstanding: Callable[[], int]
    cache: Callable[[], tuple[int, int, int]]
    upstreams: Callable[[], Sequence[UpstreamSource]]
    tcp_clients: Callable[[], int]
    udp_errors: Callable[[], int]
    is_ready: Callable[[], bool]
    versions: dict[str, str]


class DotproxyCollector(Collector):
    """
    Reads the sources when it is asked.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

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
        sources = self._sources
        counters = sources.counters()
        yield self._answers(counters)
        yield _single("unanswered_queries", counters.silent)
        yield _single("overload_refusals", counters.overloaded)
        times = _family("answer_seconds")
        _add_histogram(times, ["here"], counters.here)
        _add_histogram(times, ["asked"], counters.asked)
        yield times
        yield _single("outstanding_queries", sources.outstanding())
        lookups = _family("cache_lookups")
        for result in ("memo", "fresh", "stale", "failed_before", "joined", "missed"):
            lookups.add_metric([result], getattr(counters, result))
        yield lookups
        yield _single("cache_prefetches", counters.prefetched)
        entries, octets, evictions = sources.cache()
        yield _single("cache_evictions", evictions)
        yield _single("cache_entries", entries)
        yield _single("cache_bytes", octets)
        yield from self._upstreams()
        yield _single("tcp_clients", sources.tcp_clients())
        yield _single("udp_errors", sources.udp_errors())
        yield _single("ready", sources.is_ready())
        info = _family("build_info")
        info.add_metric([sources.versions.get(label, "") for label in METRICS["build_info"].labels], 1)
        yield info

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
        plaintext = 0
        for label, counters, tier, outstanding in self._sources.upstreams():
            families["upstream_up"].add_metric([label], (1, 0.5, 0)[tier()])
            families["upstream_outstanding_queries"].add_metric([label], outstanding())
            for rcode, count in enumerate(counters.answers):
                if count:
                    families["upstream_answers"].add_metric([label, RCODES[rcode]], count)
            _add_histogram(families["upstream_answer_seconds"], [label], counters.wire)
            _add_histogram(families["upstream_wait_seconds"], [label], counters.waited)
            for name, value in (
                ("upstream_retries", counters.retries),
                ("upstream_hedges", counters.hedges),
                ("upstream_stalls", counters.stalls),
                ("upstream_connections_opened", counters.opened),
            ):
                families[name].add_metric([label], value)
            for (by, reason), count in sorted(counters.closed.items()):
                families["upstream_connections_closed"].add_metric([label, by, reason], count)
            for phase, count in sorted(counters.not_connected.items()):
                families["upstream_connect_failures"].add_metric([label, phase], count)
            _add_histogram(families["upstream_handshake_seconds"], [label, "no"], counters.full)
            _add_histogram(families["upstream_handshake_seconds"], [label, "yes"], counters.resumed)
            plaintext += counters.plaintext
        yield from families.values()
        yield _single("plaintext_queries", plaintext)


class Metrics:
    """
    The text a scraper gets.
    """

    def __init__(self, sources: Sources) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(DotproxyCollector(sources))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self) -> bytes:
        """
        Return all metrics in Prometheus' text format.
        """
        return generate_latest(self._registry)


def versions(dotproxy: str) -> dict[str, str]:
    """
    Return what ``build_info`` says.
    """
    from OpenSSL.version import __version__ as pyopenssl

    from twisted import __version__ as twisted

    return {"version": dotproxy, "python": platform.python_version(), "twisted": twisted, "openssl": pyopenssl}


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
