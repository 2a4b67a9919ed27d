"""
What bad names cost others: forwarders in front of an upstream that hangs up at some queries.

    python -m benchmarks.bad_names [--quick] [--only a b …] [--source LABEL=PATH …] [--markdown PAGE]

Decides the order: in each situation all forwarders are measured at the same time, each in front of upstreams of its
own, so that what else this machine does hits all of them alike; the load is a few hundred queries a second.
``--one-by-one`` has one forwarder run at a time.  Everything is on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.open_loop import NOERROR, SERVFAIL, Client, Tally, ask
from benchmarks.report import markdown
from benchmarks.situations import ORDINARY_ZONE, Situation, every_situation
from benchmarks.troubled import Forwarder, Received, Source, Upstream, dotproxies, others
from dotproxy.testing.certificates import Authority
from tests.integration.programs import Program


@dataclass
class Result:
    """
    What one forwarder did in one situation.
    """

    ordinary: Tally
    bad: Tally | None
    received: Received


class Bench:
    """
    A folder, a CA, and programs that live as long as one measurement.
    """

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)  # some of them give root up before they read what is in it
        self._folder = folder
        self._numbers = itertools.count()
        authority = Authority()
        self.certificate = authority.issue(["dot.test"])
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(authority.pem)

    def place(self) -> Path:
        """
        A path that nobody has used.
        """
        return self._folder / str(next(self._numbers))

    @contextlib.contextmanager
    def running(self, programs: Sequence[Program]) -> Iterator[None]:
        """
        Have programs run, which start at the same time.
        """
        try:
            with ThreadPoolExecutor(max(1, len(programs))) as pool:
                list(pool.map(lambda program: program.start(), programs))
            yield
        finally:
            with ThreadPoolExecutor(max(1, len(programs))) as pool:
                list(pool.map(lambda program: program.stop(), programs))

    def measure(self, situation: Situation, forwarders: Sequence[Forwarder]) -> list[Result]:
        """
        Have forwarders in one situation, all at the same time.
        """
        upstreams: list[list[Upstream]] = [
            [make(self.place(), self.certificate) for make in situation.upstreams] for _ in forwarders
        ]
        peers = [
            forwarder.make(self.place(), self.ca_file, [upstream.port for upstream in own])
            for forwarder, own in zip(forwarders, upstreams, strict=True)
        ]
        ordinary = [Client(peer.port, situation.ordinary) for peer in peers]
        bad = [Client(peer.port, situation.bad) for peer in peers] if situation.bad else []
        with self.running([upstream for own in upstreams for upstream in own]):
            with self.running(peers):
                ask([*ordinary, *bad])
            received = [_received(own) for own in upstreams]
        return [
            Result(client.tally, bad[number].tally if bad else None, received[number])
            for number, client in enumerate(ordinary)
        ]


def _received(upstreams: Sequence[Upstream]) -> Received:
    received = Received()
    for upstream in upstreams:
        received.add(upstream.received())
    return received


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:,.0f}"


HEAD = (
    *("", "NOERROR", "SERVFAIL", "other", "lost", "p50 ms", "p99 ms", "max ms"),
    *("bad: responses", "bad p50 ms", "bad max ms", "bad: sent at most", "ordinary: sent at most", "connections"),
)


def row(name: str, situation: Situation, result: Result) -> list[str]:
    """
    A line of the table.
    """
    tally, bad, received = result.ordinary, result.bad, result.received
    other = sum(tally.rcodes.values()) - tally.rcodes[NOERROR] - tally.rcodes[SERVFAIL] + tally.wrong
    cells = [name, f"{tally.good} of {tally.sent}", str(tally.rcodes[SERVFAIL]), str(other), str(tally.lost)]
    cells += [_ms(tally.percentile(50)), _ms(tally.percentile(99)), _ms(max(tally.times, default=None))]
    if bad is None:
        cells += ["–"] * 3
    else:
        cells += [responses(bad), _ms(bad.percentile(50)), _ms(max(bad.times, default=None))]
    cells.append(str(received.most(situation.zone) or "–") if situation.zone else "–")
    cells.append(str(received.most(ORDINARY_ZONE)))
    cells.append("–" if received.accepted is None else str(len(received.accepted)))
    return cells


_RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")


def responses(tally: Tally) -> str:
    """
    Which responses there were, and how many.
    """
    told = [
        f"{_RCODES[rcode] if rcode < len(_RCODES) else rcode} {count}" for rcode, count in sorted(tally.rcodes.items())
    ]
    told += [f"{what} {count}" for what, count in (("wrong", tally.wrong), ("lost", tally.lost)) if count]
    return ", ".join(told)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.bad_names", description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--quick", action="store_true", help="the main situations, in two minutes")
    parser.add_argument("--seconds", type=float, metavar="S", help="of load: 10 unless given; 4 if --quick")
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="situations, by key or by the letter they begin with")
    parser.add_argument("--forwarders", nargs="+", metavar="NAME", help="rows, by the beginning of their names")
    parser.add_argument(
        "--source",
        action="append",
        metavar="LABEL=PATH",
        help="a dotproxy to measure: a checkout, or a Python that has it; may be repeated; this checkout unless given",
    )
    parser.add_argument("--one-by-one", action="store_true", help="no two forwarders at the same time")
    parser.add_argument("--list", action="store_true", help="print the situations, and end")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write the tables to this file, too")
    given = parser.parse_args()
    given.seconds = given.seconds or (4.0 if given.quick else 10.0)
    return given


def main() -> None:
    """
    Measure, and print tables.
    """
    given = _options()
    situations = every_situation(given.seconds)
    if given.only:
        situations = [each for each in situations if {each.key, each.group} & set(given.only)]
    elif given.quick:
        situations = [each for each in situations if each.is_quick]
    if given.list:
        print("\n".join(f"{each.key:12} {each.title}" for each in situations))
        return
    sources = [Source(text.partition("=")[0], Path(text.partition("=")[2]).resolve()) for text in given.source or ()]
    forwarders = [*dotproxies(sources or [Source()]), *others()]
    if given.forwarders:
        forwarders = [each for each in forwarders if each.name.startswith(tuple(given.forwarders))]
    lines: list[str] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dotproxy-bad-names-") as name:
        bench = Bench(Path(name))
        for situation in situations:
            text = "\n".join(_table(bench, situation, forwarders, one_by_one=given.one_by_one))
            print(f"\n{text}", flush=True)
            lines += [text, ""]
    print(f"\n{(time.monotonic() - begun) / 60:.1f} minutes")
    if given.markdown:
        given.markdown.write_text("\n".join(lines), "utf-8")


def _table(bench: Bench, situation: Situation, forwarders: Sequence[Forwarder], *, one_by_one: bool) -> list[str]:
    tried = [each for each in forwarders if situation.is_general or each.is_dotproxy]
    groups = [[each] for each in tried] if one_by_one else [tried]
    results = [result for group in groups for result in bench.measure(situation, group)]
    rows = [row(each.name, situation, result) for each, result in zip(tried, results, strict=True)]
    late = sum(result.ordinary.late + (result.bad.late if result.bad else 0) for result in results)
    note = ["", f"{late} queries left more than 20 ms late."] if late else []
    return [f"### ({situation.key}) {situation.title}", "", *markdown([HEAD, *rows]), *note]


if __name__ == "__main__":
    main()
