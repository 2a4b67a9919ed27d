"""
Compare dotproxy with Unbound, dnsdist, Knot Resolver and stubby, all in front of the same upstream: ``make bench``.

Decides the order: each round measures everything once, one forwarder after the other.  Every round starts with another
forwarder, so that other load on the machine affects all of them equally.  Everything is on 127.0.0.1 and stops by
itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.laboratory import Laboratory, Pace
from benchmarks.peers import PEERS, Peer
from benchmarks.report import Results, comparison, page, table, write
from benchmarks.scenarios import DIRECTLY, SCENARIOS, Figures, Scenario
from tests.integration.programs import find

_NEEDED = ("dnsperf", "unbound", "unbound-control", "dnsdist", "taskset")


def main() -> None:
    """
    Run the measurements and print the tables; with ``--write``, write them to the page, too.
    """
    given = _options()
    if missing := [program for program in _NEEDED if find(program) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    notes = [f"{kind.name} is not installed and was not measured" for kind in PEERS if kind.executable() is None]
    for note in notes:
        print(note)
    peers = [kind for kind in PEERS if kind.executable() is not None]
    scenarios = [scenario for scenario in SCENARIOS if not given.only or scenario.key in given.only]
    pace = Pace(given.seconds, 3, 4, 0.5) if given.quick else Pace(given.seconds, 3, 5, 1.0)
    results: Results = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dotproxy-bench-") as name:
        lab = Laboratory(Path(name), pace)
        with lab.open():
            try:
                for number in range(given.rounds):
                    _round(lab, number, scenarios, peers, results)
                    _print(results, scenarios, peers)
            except KeyboardInterrupt:
                print("\ninterrupted; results so far:")
                _print(results, scenarios, peers)
                raise SystemExit(130) from None
    rounds = "one round" if given.rounds == 1 else f"{given.rounds} rounds (median, and the range over the rounds)"
    how = f"loads of {given.seconds:g} s, in {rounds}"
    print(f"\n{(time.monotonic() - begun) / 60:.1f} minutes")
    if given.write:
        write(given.write, page(results, scenarios, peers, how, notes))
        print(f"written to {given.write}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--rounds", type=int, metavar="N", help="number of rounds (default: 3; with --quick 1)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="seconds of load for each figure (default: 5; with --quick 1.5)"
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes, with less precise figures")
    keys = [scenario.key for scenario in SCENARIOS]
    parser.add_argument(
        "--only", nargs="+", choices=keys, metavar="WHAT", help=f"run only these measurements: {', '.join(keys)}"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables between the markers of this page")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    given.seconds = given.seconds or (1.5 if given.quick else 5.0)
    return given


def _round(lab: Laboratory, number: int, scenarios: list[Scenario], peers: list[type[Peer]], results: Results) -> None:
    first = number % len(peers)
    for scenario in scenarios:
        if number >= scenario.most_rounds:
            continue
        print(f"\nround {number + 1}: {scenario.title}", flush=True)
        for kind in peers[first:] + peers[:first]:
            figures = _measured(lab, scenario, kind)
            results.setdefault((scenario.key, kind.name), []).append(figures)
            print(f"  {kind.name:14} {_line(scenario, figures)}", flush=True)
        if scenario.directly is not None:
            figures = scenario.directly(lab)
            results.setdefault((scenario.key, DIRECTLY), []).append(figures)
            print(f"  {DIRECTLY:14} {_line(scenario, figures)}", flush=True)


def _measured(lab: Laboratory, scenario: Scenario, kind: type[Peer]) -> Figures:
    try:
        return scenario.measure(lab, kind)
    except AssertionError as error:  # it did not start in time; the others are still measured
        print(f"    {kind.name}: {error}", flush=True)
        return {}


def _line(scenario: Scenario, figures: Figures) -> str:
    told = {column: figures.get(column) for column in scenario.columns}
    return ", ".join(
        f"{column}: {'–' if value is None else f'{value:,.{scenario.columns[column]}f}'}"
        for column, value in told.items()
    )


def _print(results: Results, scenarios: list[Scenario], peers: list[type[Peer]]) -> None:
    for scenario in scenarios:
        print(f"\n{scenario.title}\n")
        print("\n".join(table(results, scenario, [kind.name for kind in peers])))
    print("\ndotproxy compared with the best of Unbound, dnsdist and Knot Resolver\n")
    print("\n".join(comparison(results, scenarios)), flush=True)


if __name__ == "__main__":
    main()
