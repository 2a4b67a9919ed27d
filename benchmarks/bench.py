"""
What all measurements with bad names share: a folder, a CA, programs that start and stop together, and tables.

Decides how programs are started: all upstreams at the same time, and then all forwarders.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dns.edns
import dns.exception
import dns.message

from benchmarks.bad_upstreams import MakeUpstream, Received, Upstream
from benchmarks.forwarders import Forwarder, TriedDotproxy
from benchmarks.open_loop import Tally
from benchmarks.peers import Peer
from dotproxy.testing.certificates import Authority
from tests.integration.programs import Program, wait_until


@dataclass
class Row:
    """
    What is known of one forwarder: the cells of its line, the one cell that stands for them in the summary, and how
    many queries were sent late.
    """

    cells: list[str]
    summary: str
    late: int = 0


class Experiment(Protocol):
    """
    A table to be made; ``key`` is what it is chosen by, as is the key's part before the first dash.
    """

    @property
    def key(self) -> str:
        """
        Short, and unique.
        """

    @property
    def title(self) -> str:
        """
        The heading.
        """

    @property
    def head(self) -> Sequence[str]:
        """
        The columns but for the first.
        """

    @property
    def is_quick(self) -> bool:
        """
        Whether ``--quick`` has it.
        """

    @property
    def is_general(self) -> bool:
        """
        Whether other forwarders than dotproxy are measured.
        """

    def measure(self, bench: Bench, forwarders: Sequence[Forwarder]) -> list[Row]:
        """
        Measure forwarders, all at the same time.
        """


class Bench:
    """
    Lives in a folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)  # some of them give root up before they read what is in it
        self._folder = folder
        self._numbers = itertools.count()
        authority = Authority()
        self.certificate = authority.issue(["dot.test"])
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(authority.pem)

    def make_upstreams(self, makers: Sequence[MakeUpstream]) -> list[Upstream]:
        """
        Set upstreams up for one forwarder.
        """
        return [make(self._place(), self.certificate) for make in makers]

    def make_peer(self, forwarder: Forwarder, upstreams: Sequence[Upstream]) -> Peer:
        """
        Set a forwarder up in front of its upstreams.
        """
        return forwarder.make(self._place(), self.ca_file, [upstream.port for upstream in upstreams])

    def _place(self) -> Path:
        return self._folder / str(next(self._numbers))

    @contextlib.contextmanager
    def running(self, programs: Sequence[Program], *, is_answering: bool = True) -> Iterator[None]:
        """
        Have programs run; forwarders have answered a query before, unless their upstreams cannot be used.
        """
        try:
            _each(programs, lambda program: program.start() if is_answering else _launch(program))
            yield
        finally:
            _each(programs, lambda program: program.stop())


def _each(programs: Sequence[Program], do: Callable[[Program], object]) -> None:
    with ThreadPoolExecutor(max(1, len(programs))) as pool:
        list(pool.map(do, programs))


def _launch(program: Program) -> None:
    assert isinstance(program, Peer)
    program.launch()
    wait_until(
        program.is_serving if isinstance(program, TriedDotproxy) else lambda: is_listening(program.port), program
    )


def is_listening(port: int) -> bool:
    """
    Whether something on this machine receives UDP on 127.0.0.1 and this port.
    """
    wanted = f"0100007F:{port:04X}"
    return any(line.split()[1] == wanted for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def received_by(upstreams: Sequence[Upstream]) -> Received:
    """
    What they received together.
    """
    received = Received()
    for upstream in upstreams:
        received.add(upstream.received())
    return received


def milliseconds(seconds: float | None) -> str:
    """
    As a cell.
    """
    return "–" if seconds is None else f"{seconds * 1e3:,.0f}"


_RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")


def responses(tally: Tally) -> str:
    """
    Which responses there were, and how many of each.
    """
    told = [
        f"{_RCODES[rcode] if rcode < len(_RCODES) else rcode} {count}" for rcode, count in sorted(tally.rcodes.items())
    ]
    told += [f"{what} {count}" for what, count in (("wrong", tally.wrong), ("lost", tally.lost)) if count]
    return ", ".join(told) or "–"


def extended_errors(replies: Sequence[bytes]) -> str:
    """
    Which extended DNS errors (RFC 8914) responses have, and how many have none.
    """
    codes: set[int] = set()
    without = 0
    for reply in replies:
        found = _extended_errors(reply)
        codes |= found
        without += not found
    told = ", ".join(map(str, sorted(codes)))
    return f"{told}, {without} without" if told and without else told or "–"


def _extended_errors(reply: bytes) -> set[int]:
    try:
        options = dns.message.from_wire(reply).options
    except dns.exception.DNSException:
        return set()
    return {int(option.code) for option in options if isinstance(option, dns.edns.EDEOption)}
