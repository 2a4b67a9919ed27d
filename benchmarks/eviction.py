"""
What the cache finds again: its way of throwing out beside LRU and Unbound's, on the same traces.

Traces of a million questions each: names by Zipf's law with exponents 0.9 and 1.1 out of a million; the first of those
with scans of names that are asked for once in between; and a mix, where popularity moves as well.  Every cache has room
for 100,000 answers; Unbound has the memory that ours takes for as many.  Prints what share of the questions each found,
and what an answer takes in memory.  Unbound asks an NSD of this machine.

    python -m benchmarks.eviction [--questions 1000000] [--names 1000000] [--entries 100000] [--without-unbound]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import tracemalloc
from array import array
from bisect import bisect
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from dotproxy.cache.key import key_of
from dotproxy.cache.responses import CacheSettings, ResponseCache
from dotproxy.testing.client import make_query
from dotproxy.wire.message import parse_query, question_of
from dotproxy.wire.parsed_response import ParsedResponse
from dotproxy.wire.rewrite import EdnsRewriter
from tests.integration.programs import Program, free_port, run, which

REWRITER = EdnsRewriter()


def zipf(names: int, questions: int, exponent: float, seed: int) -> array[int]:
    """
    Names, each as often as its rank says; who has which rank is chance.
    """
    chance = random.Random(seed)
    weights = list(accumulate(1 / rank**exponent for rank in range(1, names + 1)))
    ranked = list(range(names))
    chance.shuffle(ranked)
    return array("l", (ranked[bisect(weights, chance.random() * weights[-1])] for _ in range(questions)))


def with_scans(trace: array[int], names: int) -> array[int]:
    """
    After each 20,000 questions 20,000 that are asked once.
    """
    scanned = array("l")
    for number in range(0, len(trace) // 2, 20000):
        scanned += trace[number : number + 20000]
        scanned += array("l", range(names + number, names + number + 20000))
    return scanned


def mixed(names: int, questions: int) -> array[int]:
    """
    Both exponents, scans, and every fifth of the trace other names that are popular.
    """
    trace = array("l")
    for turn in range(5):
        exponent = 1.1 if turn % 2 else 0.9
        trace += array("l", (n + turn * names for n in zipf(names, questions // 6, exponent, turn)))
        trace += array("l", range((10 + turn) * names, (10 + turn) * names + questions // 30))
    return trace


def name_of(number: int) -> str:
    """
    The name that stands for a number.
    """
    return f"n{number}.wild.lab.example."


def answer_to(number: int) -> tuple[bytes, ParsedResponse]:
    """
    What is kept of the answer to a question: its key, and the answer.
    """
    query = make_query(name_of(number), 1)
    seen = parse_query(query)
    end = question_of(query)
    reply = query[:2] + b"\x85\x80\0\1\0\1\0\0\0\0" + query[12:end] + b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4\xc0\0\2\1"
    answer = REWRITER.parse_response(query, seen, reply)
    assert isinstance(answer, ParsedResponse)
    return key_of(query, seen), answer


class Ours:
    """
    The cache as it is.
    """

    def __init__(self, entries: int) -> None:
        self.cache = ResponseCache(CacheSettings(prefetches=False), entries=entries, octets=1 << 40)

    def ask(self, number: int) -> bool:
        """
        Whether it is found; else it is put there.
        """
        key, answer = answer_to(number)
        entry = self.cache.peek(key)
        if entry is not None:
            self.cache.note_hit(key, entry, 1.0)
            return True
        self.cache.add(key, answer, 1, 1.0, 0)
        return False


class Lru:
    """
    The least recently used goes first.
    """

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.kept: OrderedDict[int, None] = OrderedDict()

    def ask(self, number: int) -> bool:
        """
        Whether it is found; else it is put there.
        """
        if number in self.kept:
            self.kept.move_to_end(number)
            return True
        self.kept[number] = None
        if len(self.kept) > self.entries:
            self.kept.popitem(last=False)
        return False


class Upstream(Program):
    """
    An NSD with an answer to every question of the trace.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "nsd.log")
        self.port = free_port()
        (folder / "zone").write_text(
            "$ORIGIN lab.example.\n$TTL 3600\n@ SOA ns a 1 2 3 4 60\n@ NS ns\nns A 127.0.0.1\n*.wild A 192.0.2.1\n"
        )
        self.config = folder / "nsd.conf"
        self.config.write_text(f"""\
server:
  ip-address: 127.0.0.1@{self.port}
  port: {self.port}
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  zonelistfile: "{folder}/zone.list"
  database: ""
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd.state"
  server-count: 1
  rrl-ratelimit: 0
  verbosity: 0
remote-control:
  control-enable: no
zone:
  name: lab.example
  zonefile: zone
""")
        self.executable = which("nsd")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [self.executable, "-d", "-c", str(self.config)]

    def is_ready(self) -> bool:
        """
        It answers.
        """
        return "192.0.2.1" in run("dig", "@127.0.0.1", "-p", str(self.port), "+short", "+tries=1", "x.wild.lab.example")


class UnboundCache(Program):
    """
    Unbound, with so many octets for what it keeps.
    """

    def __init__(self, folder: Path, upstream_port: int, octets: int) -> None:
        super().__init__(folder / f"unbound{time.monotonic_ns()}.log")
        self.port = free_port()
        self.config = self.log.with_suffix(".conf")
        self.config.write_text(f"""\
server:
  interface: 127.0.0.1@{self.port}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  num-threads: 1
  so-rcvbuf: 4m
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "example." nodefault
  msg-cache-size: {octets // 3}
  rrset-cache-size: {octets - octets // 3}
  outgoing-range: 4096
  num-queries-per-thread: 2048
  extended-statistics: yes
remote-control:
  control-enable: yes
  control-interface: {folder}/control
  control-use-cert: no
stub-zone:
  name: "lab.example"
  stub-addr: 127.0.0.1@{upstream_port}
""")
        self.executable = which("unbound")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [self.executable, "-d", "-c", str(self.config)]

    def is_ready(self) -> bool:
        """
        It answers.
        """
        return "192.0.2.1" in run("dig", "@127.0.0.1", "-p", str(self.port), "+short", "+tries=1", "x.wild.lab.example")

    def statistics(self) -> dict[str, float]:
        """
        What it counts.
        """
        told = run("unbound-control", "-c", str(self.config), "stats_noreset")
        pairs = (line.split("=") for line in told.splitlines() if line.count("=") == 1)
        return {key: float(value) for key, value in pairs}


def by_unbound(folder: Path, trace: array[int], upstream_port: int, octets: int) -> tuple[float, int]:
    """
    What share of a trace Unbound finds, and how many answers it holds at the end.
    """
    file = folder / "trace"
    with file.open("w") as out:
        out.writelines(f"{name_of(number)} A\n" for number in trace)
    program = UnboundCache(folder, upstream_port, octets)
    program.start()
    try:
        before = program.statistics()
        drive = ["dnsperf", "-s", "127.0.0.1", "-p", str(program.port), "-d", str(file), "-n", "1", "-q", "100"]
        run(*drive, "-c", "1", timeout=600)
        after = program.statistics()
    finally:
        program.stop()
    found, asked = (after[key] - before[key] for key in ("total.num.cachehits", "total.num.queries"))
    return found / asked, int(after.get("msg.cache.count", 0))


def memory_of(entries: int) -> float:
    """
    What an answer takes, as Python's own count of memory has it, in octets.
    """
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    ours = Ours(entries)
    for number in range(entries):
        ours.ask(number)
    taken = (tracemalloc.get_traced_memory()[0] - before) / entries
    tracemalloc.stop()
    return taken


def traces(given: argparse.Namespace) -> Iterator[tuple[str, array[int]]]:
    """
    Each trace, by its name.
    """
    for exponent in (0.9, 1.1):
        yield f"Zipf {exponent}", zipf(given.names, given.questions, exponent, 1)
    yield "Zipf 0.9 with scans", with_scans(zipf(given.names, given.questions, 0.9, 1), given.names)
    yield "mix", mixed(given.names, given.questions)


def main() -> None:
    """
    Measure, and print a table.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--without-unbound", action="store_true")
    given = parser.parse_args()
    memory = memory_of(given.entries)
    print(f"{given.entries} answers, {memory:.0f} octets each")
    print("| trace | questions | dotproxy found | LRU | Unbound of the same memory (answers it holds) |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="dotproxy-bench-") as name:
        folder = Path(name)
        upstream = Upstream(folder)
        if not given.without_unbound:
            upstream.start()
        try:
            for label, trace in traces(given):
                caches = Ours(given.entries), Lru(given.entries)
                shares = [sum(map(cache.ask, trace)) / len(trace) for cache in caches]
                theirs = "–"
                if not given.without_unbound:
                    found, held = by_unbound(folder, trace, upstream.port, int(memory * given.entries))
                    theirs = f"{found:.2%} ({held})"
                print(f"| {label} | {len(trace)} | {shares[0]:.2%} | {shares[1]:.2%} | {theirs} |", flush=True)
        finally:
            upstream.stop()


if __name__ == "__main__":
    main()
