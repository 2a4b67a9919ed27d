"""
The forwarders that are tried in front of bad upstreams: dotproxy from one checkout or from several, and its peers.

Decides how dotproxy is started; ``peers`` says how the others are.
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import Dnsdist, Dotproxy, KnotResolver, Peer, Stubby, Unbound
from dotproxy.testing.client import make_query

#: Of two workers each gets one of these but in one of 32,768 cases.
_NAMES_FOR_ALL_WORKERS = 16


@dataclass(frozen=True)
class Source:
    """
    A dotproxy: a checkout, or a Python that has it installed.  Without a path, the one that belongs to this Python.
    """

    label: str = "dotproxy"
    path: Path | None = None

    @property
    def python(self) -> str:
        """
        What runs it.
        """
        return str(self.path) if self.path and not self.path.is_dir() else sys.executable

    @property
    def environment(self) -> dict[str, str]:
        """
        What makes it this one.
        """
        return {"PYTHONPATH": str(self.path)} if self.path and self.path.is_dir() else {}


class TriedDotproxy(Dotproxy):
    """
    dotproxy from some source, with as many upstreams and workers as the situation has.
    """

    def __init__(self, folder: Path, ca_file: Path, ports: Sequence[int], source: Source, workers: int) -> None:
        super().__init__(folder, ca_file, ports[0])
        self._ports = ports
        self._source = source
        self._workers = workers

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        line = [self._source.python, "-m", "dotproxy", "run", "--listen", f"127.0.0.1:{self.port}"]
        line += ["--ca-file", str(self.ca_file), "--workers", str(self._workers)]
        for port in self._ports:
            line += ["--upstream", f"tls://127.0.0.1:{port}#dot.test"]
        return line

    def environment(self) -> dict[str, str]:
        """
        That of the source.
        """
        return super().environment() | self._source.environment

    def is_ready(self) -> bool:
        """
        All workers answer, and what the upstream says is given.
        """
        return self.is_serving() and super().is_ready()

    def is_serving(self) -> bool:
        """
        All workers answer.  Names below localhost are answered without an upstream; the kernel gives each name to one
        of the workers, and so many random ones to all of them.
        """
        return all(self._answers(f"{secrets.token_hex(8)}.localhost") for _ in range(_NAMES_FOR_ALL_WORKERS))

    def _answers(self, name: str) -> bool:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(0.5)
            client.connect(("127.0.0.1", self.port))
            try:
                client.send(make_query(name, 1))
                return client.recv(4096)[3] & 15 == 0
            except OSError:
                return False


@dataclass(frozen=True)
class Forwarder:
    """
    A row of the tables.
    """

    name: str
    make: Callable[[Path, Path, Sequence[int]], Peer]
    workers: int = 1
    is_dotproxy: bool = False


def dotproxies(sources: Sequence[Source]) -> list[Forwarder]:
    """
    dotproxy from each source, with one worker and with two.
    """

    def row(source: Source, workers: int) -> Forwarder:
        def make(folder: Path, ca_file: Path, ports: Sequence[int]) -> Peer:
            return TriedDotproxy(folder, ca_file, ports, source, workers)

        return Forwarder(source.label + (f", {workers} workers" if workers > 1 else ""), make, workers, True)

    return [row(source, workers) for source in sources for workers in (1, 2)]


class PlainDnsdist(Dnsdist):
    """
    dnsdist as it is by default towards an upstream: it has one query at a time on a connection, and as many connections
    as there are queries.
    """

    name = "dnsdist, 1 in flight"

    def configuration(self) -> str:
        """
        dnsdist's.
        """
        given = super().configuration()
        plain = given.replace("validateCertificates = true, maxInFlight = 1000", "validateCertificates = true")
        assert plain != given
        return plain


def others() -> list[Forwarder]:
    """
    The forwarders of ``peers`` that are installed, each with one upstream.
    """

    def row(kind: type[Peer]) -> Forwarder:
        return Forwarder(kind.name, lambda folder, ca_file, ports: kind(folder, ca_file, ports[0]))

    return [
        row(kind) for kind in (Unbound, Dnsdist, PlainDnsdist, Stubby, KnotResolver) if kind.executable() is not None
    ]
