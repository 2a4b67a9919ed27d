"""
What one hostile client costs others: forwarders under attack, beside a client that asks 50 ordinary queries a second.

    python -m benchmarks.attack [--quick] [--only tiny noread …] [--source LABEL=PATH …] [--markdown PAGE]

Decides the order: each attack is tried on one forwarder after the other, each started for it, in front of an upstream
of its own.  The attacker is at 127.0.0.66, the good client at 127.0.0.77; everything is on loopback and ends by itself.
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

from benchmarks.attack_forwarders import AttackedDnsdist, AttackedUnbound, attacked_dotproxies, attacked_others
from benchmarks.attack_good import Books, Outcome
from benchmarks.attack_rows import chosen
from benchmarks.attack_run import Attack, Measured, measure
from benchmarks.bench import Bench
from benchmarks.forwarders import Forwarder, Source
from benchmarks.open_loop import LATE
from benchmarks.report import markdown

HEAD = (
    "",
    "sent",
    "per s",
    "upstream got",
    "MB before",
    "MB added",
    "CPU %",
    "client",
    "NOERROR",
    "SERVFAIL",
    "other",
    "lost",
    "p50 ms",
    "p99 ms",
    "normal after s",
)

_MB = 1e6


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.attack", description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--quick", action="store_true", help="the main attacks on dotproxy alone, in two minutes")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each attack: 8 unless given; 4 if --quick")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY", help="attacks, by key or by its first part")
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
        "--option", action="append", default=[], help="an option for dotproxy, as --option=--max-outstanding=100"
    )
    parser.add_argument(
        "--recovery",
        type=float,
        metavar="S",
        help="how long to wait until all is normal: 20 unless given; 10 if --quick",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="no attack begins later than this: 15 unless given; 2 if --quick"
    )
    parser.add_argument("--list", action="store_true", help="print the attacks, and end")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write the tables to this file, too")
    given = parser.parse_args()
    given.seconds = given.seconds or (4.0 if given.quick else 8.0)
    given.minutes = given.minutes or (2.0 if given.quick else 15.0)
    given.recovery = given.recovery or (10.0 if given.quick else 20.0)
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
    attacks = chosen(given.only, is_quick=given.quick)
    if given.list:
        print("\n".join(f"{each.key:28} {each.title}" for each in attacks))
        return
    forwarders = _forwarders(given)
    tables: list[str] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dotproxy-attack-") as name:
        bench = Bench(Path(name))
        for attack in attacks:
            print(f"\n### {attack.key}: {attack.title}\n", flush=True)
            tables.append(f"### {attack.key}: {attack.title}\n\n{_table(bench, attack, forwarders, given, begun)}")
            print(tables[-1].partition("\n\n")[2], flush=True)
    head = _head(given, time.monotonic() - begun)
    print(f"\n{head}", flush=True)
    if given.markdown:
        given.markdown.write_text("\n\n".join([head, *tables]) + "\n", "utf-8")


def _forwarders(given: argparse.Namespace) -> list[Forwarder]:
    dotproxies = attacked_dotproxies(given.source or [Source()], given.option)
    forwarders = dotproxies if given.quick and not given.forwarders else [*dotproxies, *attacked_others()]
    if given.forwarders:
        return [each for each in forwarders if each.name.startswith(tuple(given.forwarders))]
    return forwarders


def _table(
    bench: Bench, attack: Attack, forwarders: Sequence[Forwarder], given: argparse.Namespace, begun: float
) -> str:
    rows: list[Sequence[str]] = [HEAD]
    late = 0
    for forwarder in forwarders:
        if not (attack.is_general or given.forwarders or (forwarder.is_dotproxy and forwarder.workers == 1)):
            continue
        if time.monotonic() - begun > given.minutes * 60:
            return "\n".join([*markdown(rows), "", "No time was left for the others."])
        try:
            measured = measure(bench, forwarder, attack, given.seconds, given.recovery)
        except AssertionError as error:  # it did not start, or ended
            rows.append([forwarder.name, "not measured", *[""] * (len(HEAD) - 2)])
            print(f"{forwarder.name}: {str(error)[:300]}", flush=True)
            continue
        rows += lines(forwarder.name, measured, given.recovery)
        late += measured.late
    note = ["", f"{late} queries of the good client left more than {LATE * 1e3:g} ms late."] if late else []
    return "\n".join([*markdown(rows), *note])


def lines(name: str, measured: Measured, recovery: float) -> list[list[str]]:
    """
    A line for each transport of the good client; what is not the client's is told once.
    """
    sent = measured.sent
    cells = [
        f"{name} (ended)" if measured.has_ended else name,
        f"{sent.sent:,}",
        f"{sent.sent / (sent.end - sent.begin):,.0f}",
        "–" if measured.upstream is None else f"{measured.upstream:,}",
        f"{measured.memory / _MB:,.0f}",
        f"+{(measured.peak - measured.memory) / _MB:,.0f}",
        f"{measured.cpu * 100:.0f}",
    ]
    told = []
    for via, books in measured.books.items():
        normal = measured.normal[via]
        after = f"> {recovery:g}" if normal is None else f"{normal:.1f}"
        told.append([*cells, via, *_books(books), after])
        cells = [""] * len(cells)
    return told


def _books(books: Books) -> list[str]:
    outcomes = books.outcomes
    if sum(outcomes.values()) != len(books.asked) or outcomes[Outcome.PENDING]:
        raise RuntimeError(f"{len(books.asked)} queries sent, but {outcomes}")
    shown = (Outcome.SERVFAIL, Outcome.OTHER, Outcome.LOST)
    times = (books.percentile(percent) for percent in (50, 99))
    return [
        f"{outcomes[Outcome.NOERROR]} of {len(books.asked)}",
        *(str(outcomes[each]) for each in shown),
        *("–" if each is None else f"{each * 1e3:,.1f}" for each in times),
    ]


def _head(given: argparse.Namespace, seconds: float) -> str:
    programs = ", ".join(
        f"{kind.name} {kind.version()}" for kind in (AttackedUnbound, AttackedDnsdist) if kind.executable()
    )
    how = f"attacks of {given.seconds:g} s, one forwarder after the other; {seconds / 60:.1f} minutes"
    return "\n".join(
        [
            f"Measured on {datetime.now(UTC):%d %B %Y}, {how}.",
            "",
            f"- Machine: {os.cpu_count()} cores, Linux {platform.release()}; load average {os.getloadavg()[1]:.1f}",
            f"- Programs: {programs}; Python {platform.python_version()}",
        ]
    )


if __name__ == "__main__":
    main()
