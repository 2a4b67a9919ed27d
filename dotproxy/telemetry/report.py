"""
A report: everything that is known, in numbers, of one running proxy, or of several that serve together.

Decides how reports are added up, and what they look like between processes.  What is a state and not a number is that
of the one that is best off: as long as one can answer, clients can expect answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dotproxy.telemetry.counters import Counters, Histogram, ListenerCounters, PlaintextCounters, UpstreamCounters
from dotproxy.telemetry.status import State, UpstreamStatus, best_of

#: What is added up of several.
_SUMS = ("outstanding", "entries", "octets", "evicted", "tcp_clients", "tls_clients", "udp_errors", "udp_drops")

#: Why a proxy is not ready that has no process.
NO_WORKER = "nobody serves yet"


@dataclass(slots=True)
class UpstreamReport:
    """
    One upstream; ``p50`` and ``p95`` of its answers, in seconds.
    """

    label: str
    counters: UpstreamCounters
    status: UpstreamStatus
    outstanding: int
    p50: float | None = None
    p95: float | None = None


@dataclass(slots=True)
class Report:
    """
    One proxy.

    ``not_ready`` says why clients cannot expect answers, "" if they can; ``processes`` holds for each process that
    serves its name, CPU seconds and octets resident; ``restarts`` counts such as ended and were started again;
    ``plaintext`` counts queries that left without TLS and are no upstream's (``plaintext_by_purpose`` has all).
    ``tls_clients`` are not among ``tcp_clients``; ``tls_addresses`` is where clients over TLS are listened to,
    ``tls_not_after`` when the certificate they are shown expires, in seconds since 1970, None if there is none.
    ``rate`` is how many queries were answered a second of late, None if that is not known.
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
    processes: list[tuple[str, float, int]] = field(default_factory=list)
    restarts: int = 0
    plaintext: PlaintextCounters = field(default_factory=PlaintextCounters)
    rate: float | None = None
    listeners: ListenerCounters = field(default_factory=ListenerCounters)
    tls_addresses: list[str] = field(default_factory=list)
    tls_not_after: float | None = None


def verified_summary(upstreams: Sequence[UpstreamReport]) -> str:
    """
    Return how many upstreams are verified and work, and of each other one why it does not.
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
    Return one report for several.
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
    Return what is left of a report when its process has ended: what was counted.
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
    Return how many queries left without TLS, by what they were for.

    ``upstream``: clients' queries to an upstream, of which there must be none.  ``bootstrap``: lookups of upstreams'
    names at servers that the operator configured as ``udp://ADDRESS``.
    """
    return {
        "upstream": sum(upstream.counters.plaintext for upstream in report.upstreams),
        "bootstrap": report.plaintext.bootstrap,
    }


def _first_reason(reports: Sequence[Report]) -> str:
    return next((report.not_ready for report in reports if report.not_ready != NO_WORKER), NO_WORKER)


def _sum_of_upstream(parts: Sequence[UpstreamReport]) -> UpstreamReport:
    counters = UpstreamCounters()
    for part in parts:
        _add_counters(counters, part.counters)
    return UpstreamReport(
        parts[0].label,
        counters,
        best_of([part.status for part in parts]),
        sum(part.outstanding for part in parts),
        _weighted_mean([(part.p50, sum(part.counters.answers)) for part in parts]),
        _weighted_mean([(part.p95, sum(part.counters.answers)) for part in parts]),
    )


def _weighted_mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight or 1) for value, weight in values if value is not None]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None


def _add_counters(whole: Any, part: Any) -> None:
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
    Return a report as what JSON can hold.
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
    Return the report that ``as_data`` made this of.
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
            "processes": [(name, cpu, resident) for name, cpu, resident in data["processes"]],
        }
    )


def _counters_as_data(counters: Any) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name in counters.FIELDS:
        value = getattr(counters, name)
        if isinstance(value, Histogram):
            value = [value.counts, value.total]
        elif isinstance(value, Counter):
            value = list(value.items())
        data[name] = value
    return data


def _counters_from_data(counters: Any, data: dict[str, Any]) -> Any:
    for name, value in data.items():
        there = getattr(counters, name)
        if isinstance(there, Histogram):
            there.counts, there.total = list(value[0]), value[1]
        elif isinstance(there, Counter):
            there.update({tuple(key) if isinstance(key, list) else key: count for key, count in value})
        else:
            setattr(counters, name, value)
    return counters
