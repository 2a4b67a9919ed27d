"""
Tables of the measurements, for a terminal and for a page.

Decides how several rounds become one figure (median and range), and what dotproxy is compared with: the best of
Unbound, dnsdist and Knot Resolver in the same measurement of the same run.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers import RIVALS, Dotproxy, Peer
from benchmarks.scenarios import DIRECTLY, LATENCY, Figures, Scenario
from tests.integration.programs import run

BEGIN, END = "<!-- measured by make bench -->", "<!-- end -->"

#: The figures of each round, by scenario and forwarder.
Results = dict[tuple[str, str], list[Figures]]

#: The compared columns of each scenario, and whether more is better.
_COMPARED: dict[str, tuple[tuple[str, bool], ...]] = {
    **dict.fromkeys(("cached", "forwarded", "crowd", "mix", "tcp-cached", "tcp-forwarded"), (("CPU µs/query", False),)),
    "latency": tuple((column, False) for column in LATENCY),
    "capacity": (("cached, queries/s", True), ("forwarded, queries/s", True)),
    "memory": (("MB after start", False), ("octets/response", False)),
    "start": (("ms", False),),
}


def values(results: Results, scenario: Scenario, name: str, column: str) -> list[float]:
    """
    Return one column of a forwarder: the value of each round that has one.
    """
    found = (figures.get(column) for figures in results.get((scenario.key, name), []))
    return [value for value in found if value is not None]


def cell(measured: Sequence[float], digits: int) -> str:
    """
    Return the median and the range as text.
    """
    if not measured:
        return "–"

    def text(value: float) -> str:
        return f"{value:,.{digits}f}"

    middle = text(statistics.median(measured))
    low, high = text(min(measured)), text(max(measured))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(results: Results, scenario: Scenario, names: Sequence[str]) -> list[str]:
    """
    Return the table of one scenario: a row for each forwarder.
    """
    rows = [["", *scenario.columns]]
    for name in (*names, DIRECTLY):
        if (scenario.key, name) in results:
            cells = (
                cell(values(results, scenario, name, column), digits) for column, digits in scenario.columns.items()
            )
            rows.append([name, *cells])
    return markdown(rows) + (_beyond(results, scenario, names) if scenario.directly else [])


def _beyond(results: Results, scenario: Scenario, names: Iterable[str]) -> list[str]:
    """
    Return the table of the latency that each forwarder adds to the upstream's own.
    """
    rows = [["added to upstream", *scenario.columns]]
    for name in names:
        row = [name]
        for column, digits in scenario.columns.items():
            measured, least = (values(results, scenario, each, column) for each in (name, DIRECTLY))
            added = [statistics.median(measured) - statistics.median(least)] if measured and least else []
            row.append(cell(added, digits))
        rows.append(row)
    return ["", *markdown(rows)]


def comparison(results: Results, scenarios: Iterable[Scenario]) -> list[str]:
    """
    Return the table of ratios: dotproxy's figure over the best of the others'.
    """
    rows = [["", "dotproxy", "best of the others", "", "ratio"]]
    for scenario in scenarios:
        for column, more_is_better in _COMPARED[scenario.key]:
            ours = values(results, scenario, Dotproxy.name, column)
            medians = {
                name: statistics.median(theirs)
                for name in RIVALS
                if (theirs := values(results, scenario, name, column))
            }
            if not ours or not medians:
                continue
            best = (max if more_is_better else min)(medians, key=lambda name: medians[name])
            own, digits = statistics.median(ours), scenario.columns[column]
            ratio = f"{own / medians[best]:.2f}" if medians[best] else "–"
            what = f"{scenario.title}: {column}" + (" (more is better)" if more_is_better else "")
            rows.append([what, cell([own], digits), cell([medians[best]], digits), best, ratio])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """
    Return a Markdown table; the first row is its head, and all columns but the first are right-aligned.
    """
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(each.rjust(width) for each, width in zip(cells[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [line(rows[0]), f"|{rule}|", *(line(row) for row in rows[1:])]


def surroundings(peers: Iterable[type[Peer]], how: str) -> list[str]:
    """
    Return the date, the machine and the versions of the programs.
    """
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    machine = f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    programs = ", ".join(f"{peer.name} {peer.version()}" for peer in peers)
    tls = re.search(r"OpenSSL [0-9.]+\w*", _openssl())
    dnsperf = re.search(r"Version ([0-9.]+)", run("dnsperf", "-h"))
    runtime = f"Python {platform.python_version()}", f"Twisted {_twisted()}", tls[0] if tls else "OpenSSL"
    return [
        f"Measured on {datetime.now(UTC):%d %B %Y}, {how}.",
        "",
        f"- Machine: {machine}",
        f"- Programs: {programs}; dnsperf {dnsperf[1] if dnsperf else ''}",
        f"- Runtime of dotproxy: {', '.join(runtime)}",
    ]


def _openssl() -> str:
    from OpenSSL import SSL

    return SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()


def _twisted() -> str:
    from twisted import version

    return version.public()


def page(
    results: Results, scenarios: Sequence[Scenario], peers: Sequence[type[Peer]], how: str, notes: Iterable[str]
) -> str:
    """
    Return all tables as the text between the markers of the page.
    """
    names = [peer.name for peer in peers]
    lines = [*surroundings(peers, how), *(f"- {note}" for note in notes), ""]
    lines += ["### Compared with the best of Unbound, dnsdist and Knot Resolver", ""]
    lines += [*comparison(results, scenarios), ""]
    for scenario in scenarios:
        lines += [f"### {scenario.title}", "", scenario.about, "", *table(results, scenario, names), ""]
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """
    Replace the text between the markers of a page.
    """
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", "utf-8")
