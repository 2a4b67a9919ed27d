"""
What bad names cost others: forwarders in front of an upstream that hangs up at some queries.

    python -m benchmarks.bad_names [--quick] [--only a b …] [--source LABEL=PATH …] [--markdown PAGE]

Decides the order: in each situation all forwarders are measured at the same time, each in front of upstreams of its
own, so that what else this machine does hits all of them alike; the load is a few hundred queries a second.
``--one-by-one`` has one forwarder run at a time.  Everything is on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bench import Bench, Experiment, Row
from benchmarks.dials import every_dial
from benchmarks.failing_name import FailingName
from benchmarks.forwarders import Forwarder, Source, dotproxies, others
from benchmarks.open_loop import LATE
from benchmarks.peers import Dnsdist, KnotResolver, Stubby, Unbound
from benchmarks.report import markdown
from benchmarks.situations import every_situation
from tests.integration.programs import find

_NO_TIME = "Not measured: no time was left."


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.bad_names", description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--quick", action="store_true", help="the main situations, in two minutes")
    parser.add_argument("--seconds", type=float, metavar="S", help="of load: 10 unless given; 4 if --quick")
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="situations, by key or by letter")
    parser.add_argument("--forwarders", nargs="+", metavar="NAME", help="rows, by the beginning of their names")
    parser.add_argument(
        "--source",
        action="append",
        type=_source,
        default=[],
        metavar="LABEL=PATH",
        help="a dotproxy to measure: a checkout, or a Python that has it; may be repeated; this checkout unless given",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="no situation begins later than this: 15 unless given; 2 if --quick; a busy machine takes longer",
    )
    parser.add_argument("--one-by-one", action="store_true", help="no two forwarders at the same time")
    parser.add_argument("--list", action="store_true", help="print the situations, and end")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write the tables to this file, too")
    given = parser.parse_args()
    given.seconds = given.seconds or (4.0 if given.quick else 10.0)
    given.minutes = given.minutes or (2.0 if given.quick else 15.0)
    for source in given.source:
        if source.path is None or not source.path.exists():
            parser.error(f"--source takes LABEL=PATH of something that exists, not {source.label}={source.path}")
    return given


def _source(text: str) -> Source:
    label, _, path = text.partition("=")
    return Source(label, Path(path).absolute() if path else None)


def main() -> None:
    """
    Measure, and print tables.
    """
    given = _options()
    experiments = _chosen(given)
    if given.list:
        print("\n".join(f"{each.key:12} {each.title}" for each in experiments))
        return
    if find("unbound") is None:
        raise SystemExit("not installed: unbound")
    forwarders = [*dotproxies(given.source or [Source()]), *others()]
    if given.forwarders:
        forwarders = [each for each in forwarders if each.name.startswith(tuple(given.forwarders))]
    tables: list[str] = []
    summary: dict[str, dict[str, str]] = {each.name: {} for each in forwarders}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dotproxy-bad-names-") as name:
        bench = Bench(Path(name))
        for experiment in experiments:
            is_late = time.monotonic() - begun > given.minutes * 60
            tables.append(_made(bench, experiment, forwarders, summary, given) if not is_late else _NO_TIME)
            tables[-1] = f"### ({experiment.key}) {experiment.title}\n\n{tables[-1]}"
            print(f"\n{tables[-1]}", flush=True)
    began = "\n".join([*_head(given, time.monotonic() - begun), *_summary(experiments, summary)])
    print(f"\n{began}", flush=True)
    if given.markdown:
        given.markdown.write_text("\n\n".join([began, *tables]) + "\n", "utf-8")


def _chosen(given: argparse.Namespace) -> list[Experiment]:
    every: list[Experiment] = [
        *every_situation(given.seconds),
        *every_dial(given.seconds * 2, is_general=not given.quick),
        FailingName(),
    ]
    considered = [each for each in every if each.is_quick] if given.quick else every
    if not given.only:
        return considered
    by_letter = [each for each in considered if each.key.partition("-")[0] in given.only]
    return [each for each in every if each in by_letter or ("-" in each.key and each.key in given.only)]


def _made(
    bench: Bench,
    experiment: Experiment,
    forwarders: Sequence[Forwarder],
    summary: dict[str, dict[str, str]],
    given: argparse.Namespace,
) -> str:
    tried = [each for each in forwarders if experiment.is_general or each.is_dotproxy]
    groups = [[each] for each in tried] if given.one_by_one else [tried]
    try:
        rows = [row for group in groups if group for row in _measured(bench, experiment, group)]
    except AssertionError as error:
        return f"Not measured: {str(error)[:200]}"
    for forwarder, row in zip(tried, rows, strict=True):
        summary[forwarder.name][experiment.key] = row.summary
    lines = [[each.name, *row.cells] for each, row in zip(tried, rows, strict=True)]
    late = sum(row.late for row in rows)
    note = ["", f"{late} queries left more than {LATE * 1e3:g} ms late."] if late else []
    return "\n".join([*markdown([["", *experiment.head], *lines]), *note])


def _measured(bench: Bench, experiment: Experiment, forwarders: Sequence[Forwarder]) -> list[Row]:
    try:
        return experiment.measure(bench, forwarders)
    except AssertionError as error:  # one did not start: its port was taken in between, or this machine is slow
        print(f"{str(error)[:200]}: once more", flush=True)
        return experiment.measure(bench, forwarders)


def _summary(experiments: Sequence[Experiment], summary: dict[str, dict[str, str]]) -> list[str]:
    keys = [each.key for each in experiments if any(each.key in cells for cells in summary.values())]
    rows = [[name, *(cells.get(key, "") for key in keys)] for name, cells in summary.items()]
    about = (
        "Ordinary queries answered, and p99; g: connections for four queries in sequence, and connections per second;"
        " h: sends over UDP / over TCP."
    )
    return [about, "", *markdown([["", *keys], *rows])]


def _head(given: argparse.Namespace, seconds: float) -> list[str]:
    programs = ", ".join(
        f"{kind.name} {kind.version()}" for kind in (Unbound, Dnsdist, Stubby, KnotResolver) if kind.executable()
    )
    how = "one forwarder at a time" if given.one_by_one else "all forwarders at the same time"
    return [
        f"Measured on {datetime.now(UTC):%d %B %Y}, loads of {given.seconds:g} s, {how}; {seconds / 60:.1f} minutes.",
        "",
        f"- Machine: {os.cpu_count()} cores, Linux {platform.release()}; load average {os.getloadavg()[1]:.1f}",
        f"- Programs: {programs}; Python {platform.python_version()}",
        "",
    ]


if __name__ == "__main__":
    main()
