"""
Load from dnsperf, and what it says about the answers.

Decides what is asked: names that are asked for again and again, names that are asked for once, and names by Zipf's
law.  A file of questions is gone through once where none may come twice.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from socket import inet_aton

from tests.integration.programs import run

#: What every name of lab.example has for an address.
ADDRESS = "192.0.2.1"

_OCTETS = inet_aton(ADDRESS)


@dataclass
class Drive:
    """
    How dnsperf is to ask: ``clients`` sockets or connections, so many questions outstanding at most, for so long.
    """

    questions: Path
    seconds: float
    clients: int = 4
    outstanding: int = 100
    mode: str = "udp"
    rate: int = 0
    timeout: float = 1.0
    is_once: bool = False
    threads: int = 1

    def arguments(self, port: int) -> list[str]:
        """
        The command line, for a server on this port.
        """
        line = ["-m", self.mode, "-s", "127.0.0.1", "-p", str(port), "-d", str(self.questions)]
        line += ["-c", str(self.clients), "-q", str(self.outstanding), "-t", f"{self.timeout:g}"]
        line += ["-l", f"{self.seconds:g}", "-O", "suppress=timeout,unexpected,congestion,sendfailed,sockready"]
        line += ["-T", str(self.threads)] if self.threads > 1 else []
        line += ["-Q", str(self.rate)] if self.rate else []
        return [*line, "-n", "1"] if self.is_once else line


@dataclass
class Driven:
    """
    What came of it; ``wrong`` are answers other than NOERROR.
    """

    sent: int
    completed: int
    lost: int
    good: int
    seconds: float
    rcodes: str

    @property
    def wrong(self) -> int:
        """
        Answers that were no use.
        """
        return self.completed - self.good

    @property
    def rate(self) -> float:
        """
        Answers a second.
        """
        return self.completed / self.seconds if self.seconds else 0.0

    @property
    def is_right(self) -> bool:
        """
        Whether its answers were good enough for a number: all of those that came were good, and nearly all came.

        The first burst may be more than a socket's buffer holds, and loads are short.
        """
        return bool(self.completed) and not self.wrong and self.lost <= self.sent * 0.05


def drive(port: int, given: Drive, core: int | None = None) -> Driven:
    """
    Ask a server, from one core of this machine or from wherever the kernel likes; a dnsperf that hangs got no answers.
    """
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    patience = given.seconds + given.timeout + 10
    try:
        return parse(run(*pinned, "dnsperf", *given.arguments(port), timeout=patience))
    except subprocess.TimeoutExpired:
        return parse("")


def parse(told: str) -> Driven:
    """
    Read what dnsperf printed.
    """

    def figure(name: str) -> float:
        found = re.search(rf"{name}:\s+([0-9.]+)", told)
        return float(found[1]) if found else 0.0

    good = re.search(r"NOERROR (\d+)", told)
    rcodes = re.search(r"Response codes:\s+(.*)", told)
    return Driven(
        sent=int(figure("Queries sent")),
        completed=int(figure("Queries completed")),
        lost=int(figure("Queries lost")),
        good=int(good[1]) if good else 0,
        seconds=figure(r"Run time \(s\)"),
        rcodes=rcodes[1].strip() if rcodes else "no answers",
    )


def is_right(reply: bytes) -> bool:
    """
    Whether a reply has the one address there is.
    """
    return len(reply) > 12 and not reply[3] & 15 and _OCTETS in reply


def names(prefix: str, count: int) -> Iterable[str]:
    """
    So many names, each another one.
    """
    return (f"{prefix}{number:08}.lab.example" for number in range(count))


def zipf(ranked: Sequence[str], count: int, seed: int) -> list[str]:
    """
    Draw from names so that the first comes twice as often as the second, three times as often as the third, …
    """
    weights = list(accumulate(1 / rank for rank in range(1, len(ranked) + 1)))
    chosen: list[str] = random.Random(seed).choices(ranked, cum_weights=weights, k=count)
    return chosen


def write_questions(path: Path, asked: Iterable[str]) -> Path:
    """
    A file as dnsperf reads it.
    """
    with path.open("w") as out:
        out.writelines(f"{name} A\n" for name in asked)
    return path
