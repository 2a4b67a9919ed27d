"""
A report: the counters and the state of a running proxy, or the sum of several workers' reports.

Decides how reports are summed and how they are sent between processes.  A state is not summed: the best one of all
workers counts, since clients get answers as long as one worker can give them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from dotproxy.telemetry.counters import Counters, Histogram, ListenerCounters, PlaintextCounters, UpstreamCounters
from dotproxy.telemetry.status import State, UpstreamStatus, best_of

AnyCounters = Counters | ListenerCounters | PlaintextCounters | UpstreamCounters
CountersType = TypeVar("CountersType", Counters, ListenerCounters, PlaintextCounters, UpstreamCounters)

#: Fields of a report that are plain sums.
_SUMS = ("outstanding", "entries", "octets", "evicted", "tcp_clients", "tls_clients", "udp_errors", "udp_drops")

#: ``not_ready`` of a proxy without a running worker.
NO_WORKER = "nobody serves yet"


@dataclass(slots=True)
class UpstreamReport:
    """
    One upstream; ``p50`` and ``p95`` are percentiles of its response time, in seconds.
    """

    label: str
    counters: UpstreamCounters
    status: UpstreamStatus
    outstanding: int
    p50: float | None = None
    p95: float | None = None


class ProcessUsage(NamedTuple):
    """
    A process that serves: CPU time in seconds, and resident memory in octets.
    """

    name: str
    cpu_seconds: float
    resident_octets: int


@dataclass(slots=True)
class Report:
    """
    One proxy.

    ``outstanding`` queries have no response yet; the cache has ``entries``, which take ``octets``, and dropped
    ``evicted`` for want of room.  ``not_ready`` says why clients cannot expect answers; "" if they can.  ``restarts``
    counts workers that ended and were started again.  ``plaintext`` counts queries that left without TLS for another
    purpose than an upstream (``plaintext_by_purpose`` has all).  ``tls_clients`` are not among ``tcp_clients``;
    ``tls_addresses`` are the addresses of the listeners for TLS, ``tls_not_after`` is the expiry of their certificate
    in seconds since 1970, None without one.  ``rate`` is the number of answers a second lately, None if not known.
    """

    counters: Counters = field(default_factory=Counters)
    outstanding: int = 0
    entries: int = 0
    octets: int = 0
    evicted: int = 0
    tcp_clients: int = 0
    tls_clients: int = 0
    udp_errors: int = 0
    udp_drops: int = 0
    not_ready: str = ""
    upstreams: list[UpstreamReport] = field(default_factory=list)
    processes: list[ProcessUsage] = field(default_factory=list)
    restarts: int = 0
    plaintext: PlaintextCounters = field(default_factory=PlaintextCounters)
    rate: float | None = None
    listeners: ListenerCounters = field(default_factory=ListenerCounters)
    tls_addresses: list[str] = field(default_factory=list)
    tls_not_after: float | None = None


def verified_summary(upstreams: Sequence[UpstreamReport]) -> str:
    """
    Return the number of upstreams that are verified and work, with the reason for each other one.
    """
    working = sum(one.status.is_working for one in upstreams)
    text = f"{working} of {len(upstreams)} upstreams verified"
    others = [f"{one.label}: {_why_not(one.status)}" for one in upstreams if not one.status.is_working]
    return f"{text} ({'; '.join(others)})" if others else text


def _why_not(status: UpstreamStatus) -> str:
    if status.state == State.DOWN:
        return status.error or "down"
    return "not verified yet"


def sum_of(reports: Sequence[Report]) -> Report:
    """
    Return the sum of reports.
    """
    whole = Report(not_ready="" if any(not report.not_ready for report in reports) else _first_reason(reports))
    for report in reports:
        _add_counters(whole.counters, report.counters)
        _add_counters(whole.plaintext, report.plaintext)
        _add_counters(whole.listeners, report.listeners)
        for name in _SUMS:
            setattr(whole, name, getattr(whole, name) + getattr(report, name))
        whole.restarts += report.restarts
        whole.tls_addresses = whole.tls_addresses or report.tls_addresses
        if report.tls_not_after is not None:
            whole.tls_not_after = min(report.tls_not_after, whole.tls_not_after or report.tls_not_after)
        whole.processes += report.processes
    for label in dict.fromkeys(upstream.label for report in reports for upstream in report.upstreams):
        whole.upstreams.append(
            _sum_of_upstream([one for report in reports for one in report.upstreams if one.label == label])
        )
    return whole


def after_exit(report: Report) -> Report:
    """
    Return the part of a report that still counts when its process has ended: the counters.
    """
    return Report(
        counters=report.counters,
        evicted=report.evicted,
        udp_errors=report.udp_errors,
        not_ready=NO_WORKER,
        upstreams=[
            UpstreamReport(one.label, one.counters, UpstreamStatus(State.UNSERVED), 0) for one in report.upstreams
        ],
        plaintext=report.plaintext,
        listeners=report.listeners,
    )


def plaintext_by_purpose(report: Report) -> dict[str, int]:
    """
    Return the number of queries that left without TLS, by purpose.

    ``upstream`` counts clients' queries to an upstream and must be 0; ``bootstrap`` counts lookups of upstreams' names
    at servers that the operator configured as ``udp://ADDRESS``.
    """
    return {
        "upstream": sum(upstream.counters.plaintext for upstream in report.upstreams),
        "bootstrap": report.plaintext.bootstrap,
    }


def _first_reason(reports: Sequence[Report]) -> str:
    return next((report.not_ready for report in reports if report.not_ready != NO_WORKER), NO_WORKER)


def _sum_of_upstream(parts: Sequence[UpstreamReport]) -> UpstreamReport:
    first, *_ = parts
    counters = UpstreamCounters()
    for part in parts:
        _add_counters(counters, part.counters)
    return UpstreamReport(
        first.label,
        counters,
        best_of([part.status for part in parts]),
        sum(part.outstanding for part in parts),
        _weighted_mean([(part.p50, sum(part.counters.answers)) for part in parts]),
        _weighted_mean([(part.p95, sum(part.counters.answers)) for part in parts]),
    )


def _weighted_mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight or 1) for value, weight in values if value is not None]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None


def _add_counters(whole: AnyCounters, part: AnyCounters) -> None:
    """
    Add every field of ``part`` to ``whole``, which has the same class.
    """
    for name in whole.FIELDS:
        mine, other = getattr(whole, name), getattr(part, name)
        if isinstance(mine, Histogram):
            mine.counts = [sum(pair) for pair in zip(mine.counts, other.counts, strict=True)]
            mine.total += other.total
        elif isinstance(mine, list):
            setattr(whole, name, [sum(pair) for pair in zip(mine, other, strict=True)])
        elif isinstance(mine, Counter):
            mine.update(other)
        else:
            setattr(whole, name, mine + other)


def as_data(report: Report) -> dict[str, Any]:
    """
    Return a report as data for JSON.
    """
    data = {part.name: getattr(report, part.name) for part in fields(report)}
    data["counters"] = _counters_as_data(report.counters)
    data["plaintext"] = _counters_as_data(report.plaintext)
    data["listeners"] = _counters_as_data(report.listeners)
    data["upstreams"] = [
        {part.name: getattr(one, part.name) for part in fields(one)}
        | {"counters": _counters_as_data(one.counters), "status": asdict(one.status)}
        for one in report.upstreams
    ]
    return data


def from_data(data: dict[str, Any]) -> Report:
    """
    Return the report from which ``as_data`` made ``data``.
    """
    upstreams = [
        UpstreamReport(
            **{
                **one,
                "counters": _counters_from_data(UpstreamCounters(), one["counters"]),
                "status": UpstreamStatus(**{**one["status"], "state": State(one["status"]["state"])}),
            }
        )
        for one in data["upstreams"]
    ]
    return Report(
        **{
            **data,
            "counters": _counters_from_data(Counters(), data["counters"]),
            "plaintext": _counters_from_data(PlaintextCounters(), data["plaintext"]),
            "listeners": _counters_from_data(ListenerCounters(), data["listeners"]),
            "upstreams": upstreams,
            "processes": [ProcessUsage(*one) for one in data["processes"]],
        }
    )


def _counters_as_data(counters: AnyCounters) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name in counters.FIELDS:
        value = getattr(counters, name)
        if isinstance(value, Histogram):
            value = [value.counts, value.total]
        elif isinstance(value, Counter):
            value = list(value.items())
        data[name] = value
    return data


def _counters_from_data(counters: CountersType, data: dict[str, Any]) -> CountersType:
    """
    Set every field of new ``counters`` from data of ``_counters_as_data``; return them.
    """
    for name, value in data.items():
        there = getattr(counters, name)
        if isinstance(there, Histogram):
            counts, there.total = value
            there.counts = list(counts)
        elif isinstance(there, Counter):
            there.update({tuple(key) if isinstance(key, list) else key: count for key, count in value})
        else:
            setattr(counters, name, value)
    return counters
