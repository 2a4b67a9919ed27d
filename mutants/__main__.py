"""
`python -m mutants`: draws mutations, runs the tests on each, and prints what survived.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

from mutants.forked_pytest import preload, run_pytest
from mutants.line_map import LineMap
from mutants.operators import Mutation, is_change, mutations

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "mutants"
ROOMS = ("wire", "policy", "cache", "forwarding", "upstream", "downstream")
LEAST = 0.95


class Outcome(NamedTuple):
    """
    What became of one mutation.
    """

    mutation: Mutation
    #: "killed", "timeout", "survived", "equivalent"
    verdict: str
    #: The test that failed, the reason of equivalence, or "".
    by: str


class Equivalents:
    """
    The list of mutations that change nothing that can be observed.
    """

    def __init__(self, file: Path) -> None:
        self._reasons: dict[tuple[str, str, str, str], str] = {}
        for entry in tomllib.loads(file.read_text("utf-8")).get("mutant", []):
            after = entry["after"] if isinstance(entry["after"], list) else [entry["after"]]
            for text in after:
                self._reasons[entry["path"], entry["where"], entry["before"], text] = entry["reason"]

    def reason(self, mutation: Mutation) -> str | None:
        """
        Return why a mutation is equivalent, None if it is not.
        """
        return self._reasons.get((mutation.path, mutation.where, mutation.before, mutation.after))

    def stale(self, all_mutations: Sequence[Mutation]) -> list[str]:
        """
        Return the entries that are no mutation of the code as it is, of the files that were looked at.
        """
        known = {(one.path, one.where, one.before, one.after) for one in all_mutations}
        paths = {one.path for one in all_mutations}
        return [
            f"{path}: {where}: {before}  →  {after}"
            for path, where, before, after in self._reasons
            if (path in paths or not (ROOT / path).exists()) and (path, where, before, after) not in known
        ]


class Tree:
    """
    A copy of the project in which one mutation at a time is made and tested.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, mutation: Mutation, source: str, tests: list[str], limit: float) -> tuple[str, str]:
        """
        Run tests on a mutation until one fails; return the verdict and the test.
        """
        file = self.path / mutation.path
        self._write(file, mutation.apply(source))
        try:
            code, output = run_pytest(self.path, tests, limit)
        finally:
            self._write(file, source)
        if code is None:
            return "timeout", f"after {limit:.0f} s"
        if code == 0:
            return "survived", ""
        failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "killed", failed[0] if failed else f"exit code {code}"

    @staticmethod
    def _write(file: Path, text: str) -> None:
        # A .pyc is told from its source by size and second, which are not enough here.
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()
        file.write_text(text, "utf-8")


def copy_project(path: Path) -> None:
    """
    Copy what git would commit.
    """
    shutil.rmtree(path, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)


def _sources(paths: Sequence[str]) -> dict[str, str]:
    """
    Return the modules to mutate, by path relative to the project.
    """
    chosen = [(ROOT / path).resolve() for path in paths] or [ROOT / "dotproxy" / room for room in ROOMS]
    files = [file for path in chosen for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in files}


def draw(all_mutations: Sequence[Mutation], sources: dict[str, str], seed: int, count: int) -> list[Mutation]:
    """
    Return `count` mutations (0: all): places are drawn first, each as likely as the others, then a change for each.
    """
    if not count:
        return [one for one in all_mutations if is_change(sources[one.path], one)]
    chance = random.Random(seed)  # noqa: S311 (a sample)
    places: dict[tuple[str, int, int, str], list[Mutation]] = {}
    for one in all_mutations:
        places.setdefault((one.path, one.start, one.end, one.operator), []).append(one)
    drawn: list[Mutation] = []
    for place in chance.sample(sorted(places), len(places)):
        one = chance.choice(places[place])
        if is_change(sources[one.path], one):
            drawn.append(one)
            if len(drawn) == count:
                break
    return drawn


class Work(NamedTuple):
    """
    One mutation, and what is run on it.
    """

    mutation: Mutation
    source: str
    tests: list[str]
    #: Seconds.
    limit: float


_tree: Tree


def _take_tree(trees: "SimpleQueue[Path]") -> None:
    """
    Give this process a tree of its own.
    """
    global _tree  # noqa: PLW0603 (multiprocessing has no other place for it)
    _tree = Tree(trees.get())


def _try_one(work: Work) -> Outcome:
    """
    Run the tests on one mutation, in this process's tree, and print a line.
    """
    mutation, source, tests, limit = work
    started = time.monotonic()
    verdict, by = _tree.run(mutation, source, tests, limit)
    took = time.monotonic() - started
    told = f"{verdict:9} {took:5.1f} s of {len(tests):4} tests  {mutation.path}:{mutation.lines[0]}  {mutation.after}"
    print(told, file=sys.stderr, flush=True)
    return Outcome(mutation, verdict, by)


def _run_all(drawn: list[Mutation], sources: dict[str, str], equivalents: Equivalents, jobs: int) -> list[Outcome]:
    paths = [BUILD / f"tree-{number}" for number in range(jobs)]
    for path in paths:
        copy_project(path)
    line_map = LineMap(ROOT, paths[0], BUILD / "map.json")
    failed = line_map.refresh()
    if failed:
        print("left out, as they fail without any mutation:", *failed, sep="\n  ", file=sys.stderr, flush=True)
    outcomes = [
        Outcome(mutation, "equivalent", reason) for mutation in drawn if (reason := equivalents.reason(mutation))
    ]
    works: list[Work] = []
    for mutation in drawn:
        if not equivalents.reason(mutation):
            tests = line_map.tests_for(mutation)
            works.append(Work(mutation, sources[mutation.path], tests, 30 + 5 * line_map.seconds(tests)))
    preload()
    context = multiprocessing.get_context("fork")
    trees: SimpleQueue[Path] = context.SimpleQueue()
    for path in paths:
        trees.put(path)
    with context.Pool(jobs, _take_tree, (trees,)) as pool:
        return outcomes + pool.map(_try_one, works, chunksize=1)


def _report(outcomes: list[Outcome]) -> float:
    """
    Print the table and the survivors; return the share that did not survive.
    """
    verdicts = ("killed", "timeout", "equivalent", "survived")
    rooms: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        rooms.setdefault(str(Path(outcome.mutation.path).parent), Counter())[outcome.verdict] += 1
    rooms["all"] = Counter(outcome.verdict for outcome in outcomes)
    print("| room | mutations | " + " | ".join(verdicts) + " | killed or equivalent |")
    print("|---|---|" + "---|" * len(verdicts) + "---|")
    share = 1.0
    for room, counts in rooms.items():
        total = counts.total()
        share = 1 - counts["survived"] / total if total else 1.0
        cells = " | ".join(str(counts[verdict]) for verdict in verdicts)
        print(f"| {room} | {total} | {cells} | {share:.1%} |")
    for outcome in outcomes:
        mutation = outcome.mutation
        if outcome.verdict == "survived":
            print(f"\nsurvived: {mutation.path}:{mutation.lines[0]} {mutation.where} ({mutation.operator})")
            print(f"  - {mutation.before}\n  + {mutation.after}")
    return share


def main() -> int:
    """
    Run; return 1 if too many survived.
    """
    parser = argparse.ArgumentParser(prog="make mutants", description="Mutation testing; see mutants/__init__.py.")
    parser.add_argument("paths", nargs="*", help="files or folders; otherwise " + ", ".join(ROOMS))
    parser.add_argument("--seed", type=int, default=1, help="which sample (1)")
    parser.add_argument("--count", type=int, default=200, help="how many mutations (200); 0: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--again", action="store_true", help="what survived the last run")
    parser.add_argument("--list", action="store_true", help="print the mutations and run nothing")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = _sources(options.paths)
    found = [mutation for path, source in sources.items() for mutation in mutations(path, source)]
    last = BUILD / "survived.json"
    if options.again:
        survived = {tuple(one) for one in json.loads(last.read_text("utf-8"))}
        drawn = [one for one in found if (one.path, one.where, one.before, one.after) in survived]
    else:
        drawn = draw(found, sources, options.seed, options.count)
    if options.list:
        for one in drawn:
            print(f"{one.path}:{one.lines[0]} {one.where} ({one.operator})\n  - {one.before}\n  + {one.after}")
        return 0
    equivalents = Equivalents(Path(__file__).with_name("equivalent.toml"))
    outcomes = _run_all(drawn, sources, equivalents, options.jobs)
    survivors = [one.mutation for one in outcomes if one.verdict == "survived"]
    last.write_text(json.dumps([(one.path, one.where, one.before, one.after) for one in survivors]), "utf-8")
    print(f"seed {options.seed}: {len(drawn)} of {len(found)} mutations")
    share = _report(outcomes)
    stale = equivalents.stale(found)
    if stale:
        print("\nentries of equivalent.toml that match nothing:\n  " + "\n  ".join(stale))
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
